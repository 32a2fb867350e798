"""The options of a run, each declared once as a field of `RunOptions`: a new option is a new field, and its use.

Derived from the fields: the options of `hub-tests run` (`ci.cli.options`), the suite's options for pytest, the command
line that starts the suite, and the words that run a test again (`ci.run_arguments`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ci.consumers.registry import CONSUMERS, ConsumerName
from ci.errors import RequestError
from ci.hub.slices import Slice, parse_slice
from ci.subjects.described import SUFFIX
from ci.subjects.registry import SUBJECT_NAMES, SubjectName, choose_default_subject, find_adapter
from ci.subjects.sandbox import IsolationMode

SAME = "same"
"""The option is called after its field: `subject_python` is `--subject-python`."""


def parse_layers(text: str) -> int | Literal["auto"] | tuple[int, ...]:
    """Read `N`, `auto`, or indices of layers like `0,3`. Raises RequestError for anything else."""
    if text == "auto":
        return "auto"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    indices = text.split(",")
    if len(indices) > 1 and all(index.isdecimal() and len(index) <= 4 for index in indices):
        picked = tuple(map(int, indices))
        if picked == tuple(sorted(set(picked))):
            return picked
    raise RequestError(
        f"--layers {text}: expected a number of layers, 1 or more, or auto, or ascending indices like 0,3"
    )


def parse_subject(text: str) -> SubjectName:
    """Read a subject's name; a file's path becomes absolute. Raises RequestError where there is no such adapter."""
    adapter = find_adapter(text)
    if adapter.described and text.endswith(SUFFIX):
        return str(Path(text).absolute())
    plugin = adapter.plugin
    return f"{plugin.location}:{text.rpartition(':')[2]}" if plugin and ".py:" in text else text


@dataclass(frozen=True)
class Declaration:
    """What a field of `RunOptions` says about its option, beside name, type and default.

    `cli` is the option of `hub-tests run`, `pytest` the suite's; None where that side has no such option. `reproduces`
    marks what a command line needs to run the same test again.
    """

    help: str
    cli: str | None = SAME
    pytest: str | None = SAME
    short: str | None = None
    metavar: str | None = None
    minimum: int | None = None
    parse: Callable[[str], Any] | None = None
    reproduces: bool = False


@dataclass(frozen=True)
class RunOptions:
    """What a run was asked for. None leaves the choice to the machine on which the suite runs."""

    subject: Annotated[
        SubjectName | None,
        Declaration(
            f"{' or '.join(SUBJECT_NAMES)}, an installed adapter, package.module:Class, PATH/file.py:Class or a "
            "description PATH/file.toml; default: the first that can be imported",
            parse=parse_subject,
            metavar="NAME|module:Class|FILE:Class",
            reproduces=True,
        ),
    ] = None
    subject_python: Annotated[Path | None, Declaration("Python interpreter that has the subject", reproduces=True)] = (
        None
    )
    subject_path: Annotated[
        tuple[Path, ...],
        Declaration(
            "directory for that interpreter's import path; may be repeated; for pytest write --subject-path=DIR",
            reproduces=True,
        ),
    ] = ()
    reference_python: Annotated[
        Path | None,
        Declaration(
            "Python interpreter for models that bring their own code; default: the entry's code_environment",
            reproduces=True,
        ),
    ] = None
    reference_path: Annotated[
        tuple[Path, ...],
        Declaration("directory for that interpreter's import path; may be repeated", reproduces=True),
    ] = ()
    environment: Annotated[
        str | None,
        Declaration(
            "environment that has what the subject needs: fast_llm, reference or a TOML file; built if it is missing",
            pytest=None,
            reproduces=True,
        ),
    ] = None
    only_environment: Annotated[
        bool,
        Declaration(
            "use --environment for every model, also for those whose entries name their own",
            pytest=None,
            reproduces=True,
        ),
    ] = False
    subject_source: Annotated[
        str | None,
        Declaration(
            "the subject's code to build over it: a checkout, or an address like https://host/owner/name@COMMIT",
            pytest=None,
            reproduces=True,
        ),
    ] = None
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        Declaration("cpu or cuda; default: cuda if torch sees a GPU", reproduces=True),
    ] = None
    layers: Annotated[
        int | Literal["auto"] | tuple[int, ...] | None,
        Declaration(
            "layers to keep: a number, auto, or indices from 0 like 0,3; default: the registry's",
            parse=parse_layers,
            metavar="N|auto|I,J",
            reproduces=True,
        ),
    ] = None
    slice: Annotated[
        Slice | None,
        Declaration(
            "keep the first V rows of the vocabulary, E experts: vocab=V,experts=E; default: the registry's",
            parse=parse_slice,
            metavar="vocab=V,experts=E",
            reproduces=True,
        ),
    ] = None
    isolation: Annotated[
        IsolationMode,
        Declaration("sandbox for the subject: required, auto (where it can be had) or none", reproduces=False),
    ] = "auto"
    compile_cache: Annotated[
        Path | None,
        Declaration("directory of earlier runs' compiled code; default: $HUB_TESTS_COMPILE_CACHE, else none"),
    ] = None
    fill_compile_cache: Annotated[
        bool, Declaration("keep there what this run compiles: only where you trust the subject's code")
    ] = False
    registry: Annotated[Path | None, Declaration("another models.toml", reproduces=True)] = None
    checkpoints: Annotated[
        Path | None, Declaration("output of `hub-tests fetch --json`: test exactly these checkpoints")
    ] = None
    timeout: Annotated[
        float, Declaration("seconds that one call of the subject may take", pytest="--subject-timeout", minimum=1)
    ] = 1800.0
    time_limit: Annotated[
        float | None, Declaration("seconds for the whole suite; then it is interrupted", pytest=None, minimum=1)
    ] = None
    workers: Annotated[
        int | None, Declaration("pytest-xdist workers; default: one for each GPU", pytest=None, minimum=0)
    ] = None
    deep: Annotated[bool, Declaration("also test every config key, weight and gradient", reproduces=True)] = False
    accept_known_refusals: Annotated[
        bool, Declaration("exit with 0 where each model is refused as the registry says", pytest=None)
    ] = False
    verbose: Annotated[bool, Declaration("print one line for each test", pytest=None, short="-v")] = False
    consumer: Annotated[
        ConsumerName | None,
        Declaration(f"engine that also serves each export: {' or '.join(CONSUMERS)}; default: none", reproduces=True),
    ] = None
    consumer_python: Annotated[
        Path | None,
        Declaration("Python interpreter that has the engine; default: its environment's", reproduces=True),
    ] = None
    subject_commit: Annotated[str | None, Declaration("commit of the subject that was built", cli=None)] = None
    model_options: Annotated[Path | None, Declaration("file with the options that differ between models", cli=None)] = (
        None
    )
    environment_failure: Annotated[str | None, Declaration("why the environment is not here", cli=None)] = None
    subject_failure: Annotated[str | None, Declaration("why the subject could not be built", cli=None)] = None
    subject_variables: Annotated[
        str | None,
        Declaration("variables of the subject's process, as a JSON object", cli=None),
    ] = None
    subject_logs: Annotated[Path | None, Declaration("directory for the subject's output", cli=None)] = None

    def read_subject_variables(self) -> dict[str, str]:
        """Return the variables that the subject's environment sets."""
        return {str(name): str(value) for name, value in json.loads(self.subject_variables or "{}").items()}

    def subject_or_default(self) -> SubjectName:
        """Return the subject, or the default one of the machine where this is called."""
        return self.subject or choose_default_subject(self.subject_python)
