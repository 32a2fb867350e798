"""The two engines that render chat templates: how each is started, or why it is not here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.subjects.interpreter_paths import list_interpreter_directories

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PACKAGE = "@huggingface/jinja"
NO_NODE = "node is not installed"
MODULES_VARIABLE = "HUB_TESTS_NODE_MODULES"
"""The variable that names a `node_modules` directory with the package, where it is not beside this module."""
PROGRAMS = Path(__file__).parent
NODE_HEAP_MIB = 512


@dataclass(frozen=True)
class Engine:
    """An engine's program. `words` start it; two descriptors follow: the request's and the answers'.

    `readable` is what it must see in a sandbox. `absent` says why it cannot be started, "" where it can.
    """

    name: str
    words: tuple[str, ...] = ()
    readable: tuple[Path, ...] = ()
    absent: str = ""


def find_engines(environ: Mapping[str, str] | None = None) -> tuple[Engine, ...]:
    """Find both engines: Jinja2 as transformers runs it, and Hugging Face's own for JavaScript."""
    return (_find_jinja2(), _find_huggingface_jinja(os.environ if environ is None else environ))


def describe_second_engine(
    environ: Mapping[str, str] | None = None, which: Callable[[str], str | None] = shutil.which
) -> tuple[str, str]:
    """Return name and version of the second engine, or "" and why there is none."""
    engine = _find_huggingface_jinja(os.environ if environ is None else environ, which)
    if engine.absent:
        return "", engine.absent
    try:
        version = str(json.loads((Path(engine.words[-1]) / "package.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", f"{PACKAGE} is damaged: its package.json names no version"
    return f"{PACKAGE} {version[:40]}", ""


def _find_jinja2() -> Engine:
    python = Path(sys.executable)
    program = PROGRAMS / "jinja2_program.py"
    return Engine("Jinja2", (str(python), "-I", str(program)), (*list_interpreter_directories(python), PROGRAMS))


def _find_huggingface_jinja(environ: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> Engine:
    named = environ.get(MODULES_VARIABLE)
    package = (Path(named) if named else PROGRAMS / "node_modules") / PACKAGE
    node = which("node")
    if node is None:
        return Engine(PACKAGE, absent=NO_NODE)
    if not (package / "package.json").is_file():
        return Engine(PACKAGE, absent=f"`npm ci` was not run in {PROGRAMS.parent.name}/{PROGRAMS.name}")
    words = (node, f"--max-old-space-size={NODE_HEAP_MIB}", str(PROGRAMS / "huggingface_jinja.mjs"), str(package))
    return Engine(PACKAGE, words, (*_find_node_directories(Path(node)), PROGRAMS, package.resolve()))


def _find_node_directories(node: Path) -> tuple[Path, ...]:
    """Return the directories of a node that is not below /usr, which every sandbox sees."""
    places = {node.parent, node.resolve().parent}
    return tuple(sorted(place for place in places if not place.is_relative_to("/usr") and place != Path("/bin")))
