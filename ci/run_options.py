"""The options of a run, each declared once as a field of `RunOptions`.

Derived from the fields: the options of `hub-tests run` (`ci.cli.options`), the suite's options for pytest, the command
line that starts the suite, and the words that run a test again. A new option is a new field, and its use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ci.consumers.registry import CONSUMERS, ConsumerName
from ci.errors import RequestError
from ci.hub.slices import Slice, parse_slice
from ci.subjects.described import SUFFIX
from ci.subjects.registry import SUBJECT_NAMES, SubjectName, choose_default_subject, find_adapter
from ci.subjects.sandbox import IsolationMode

if TYPE_CHECKING:
    from collections.abc import Iterable

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


@dataclass(frozen=True)
class Option:
    """One option with everything that its field says. `value_type` is the type of one value."""

    name: str
    default: Any
    cli: str | None
    pytest: str | None
    value_type: type
    repeated: bool
    choices: tuple[str, ...]
    declared: Declaration

    def convert(self, value: Any) -> Any:
        """Return the record's value for what the command line gave. Raises RequestError for a wrong word.

        Paths become absolute, because the suite runs in another directory. Links stay: the interpreter of a virtual
        environment is one.
        """
        if self.repeated:
            return tuple(path.absolute() for path in value or ())
        if isinstance(value, Path):
            return value.absolute()
        if value is not None and self.declared.parse:
            return self.declared.parse(value)
        if value is not None and self.choices and value not in self.choices:
            from ci.models import suggest_name

            expected = " or ".join(self.choices)
            raise RequestError(f"{self.cli} {value}: expected {expected}.{suggest_name(value, self.choices)}")
        return value

    def format(self, value: Any) -> list[str]:
        """Return the words of a command line that set this option to `value`."""
        name = self.pytest or self.cli
        if value is None or value is False:
            return []
        if value is True:
            return [str(name)]
        if isinstance(value, tuple) and not self.repeated:
            return [f"{name}={','.join(map(str, value))}"]
        return [f"{name}={item}" for item in (value if self.repeated else [value])]

    def pytest_keywords(self) -> dict[str, Any]:
        """Return the keyword arguments for pytest's `addoption`."""
        if self.value_type is bool:
            return {"action": "store_true", "help": self.declared.help}
        keywords: dict[str, Any] = {"default": self.default, "help": self.declared.help}
        if self.choices:
            return {**keywords, "choices": self.choices}
        if self.repeated:
            keywords |= {"action": "append", "default": []}
        return {**keywords, "type": _pytest_parser(self.declared.parse) if self.declared.parse else self.value_type}


def _pytest_parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap a parser so that argparse prints its message."""

    def parse_for_pytest(text: str) -> Any:
        try:
            return parse(text)
        except RequestError as wrong:
            raise argparse.ArgumentTypeError(str(wrong).rpartition(f"{text}: ")[2]) from None

    return parse_for_pytest


def _make_option(name: str, default: Any, hint: Any) -> Option:
    annotated, declared = get_args(hint)
    repeated = get_origin(annotated) is tuple
    parts = () if get_origin(annotated) is Literal else get_args(annotated)
    kinds = [kind for kind in parts if kind not in (NoneType, Ellipsis)] or [annotated]
    choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
    cli, pytest = (f"--{name.replace('_', '-')}" if word == SAME else word for word in (declared.cli, declared.pytest))
    value_type = str if choices or declared.parse else kinds[0]
    return Option(name, default, cli, pytest, value_type, repeated, choices, declared)


def _read_declarations() -> tuple[Option, ...]:
    hints = get_type_hints(RunOptions, include_extras=True)
    return tuple(_make_option(field.name, field.default, hints[field.name]) for field in fields(RunOptions))


OPTIONS = _read_declarations()


def add_pytest_options(addoption: Callable[..., object]) -> None:
    """Declare the suite's options to pytest."""
    for option in OPTIONS:
        if option.pytest:
            addoption(option.pytest, **option.pytest_keywords())


def read_pytest_options(getoption: Callable[[str], Any]) -> RunOptions:
    """Return the options that pytest was called with."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.pytest:
            value = getoption(option.pytest)
            values[option.name] = tuple(value) if option.repeated else value
    return RunOptions(**values)


def format_arguments(options: RunOptions, chosen: Iterable[Option]) -> list[str]:
    """Return the `chosen` ones of `options` as words of a command line."""
    return [word for option in chosen for word in option.format(getattr(options, option.name))]


def make_pytest_arguments(options: RunOptions) -> list[str]:
    """Return the part of the suite's command line that these options make."""
    return format_arguments(options, (option for option in OPTIONS if option.pytest))


def make_reproduction_arguments(options: RunOptions, *, leave_out: Iterable[str] = ()) -> list[str]:
    """Return the words for `hub-tests run` without which the same test would run differently, or not at all."""
    known = frozenset(leave_out)
    return format_arguments(options, (o for o in OPTIONS if o.declared.reproduces and o.name not in known))


def make_cli_arguments(options: RunOptions) -> list[str]:
    """Return the words for `hub-tests run` that set everything that is not the default."""
    chosen = (replace(one, pytest=one.cli) for one in OPTIONS if one.cli and getattr(options, one.name) != one.default)
    return format_arguments(options, chosen)


def make_pytest_reproduction_arguments(options: RunOptions) -> list[str]:
    """Return the same words for pytest, which builds no subject: of a built one they name the interpreter and path."""
    return format_arguments(options, (option for option in OPTIONS if option.declared.reproduces and option.pytest))
