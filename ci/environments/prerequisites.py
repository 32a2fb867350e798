"""What a machine needs before an environment and a subject's commit can be built there: asked for first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ci.doctor.host_checks import parse_version
from ci.doctor.sandbox_probes import find_tool, read_headers
from ci.environments.base import find_base
from ci.environments.image import PROGRAMS
from ci.environments.installer import UvInstaller, find_installer, find_python
from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ci.environments.description import EnvironmentDescription


def check_prerequisites(
    description: EnvironmentDescription,
    roots: tuple[Path, ...],
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    *,
    python: str | None = None,
    clones: bool = False,
) -> None:
    """Tell each missing prerequisite in a line of its own. Raises InfrastructureError if there is one.

    `roots` are the directories of environments, `python` an interpreter that was named; `clones` asks for git.
    """
    missing = dict(_find_missing(description, roots, environ, python=python, clones=clones))
    for what, fix in missing.items():
        progress(f"missing: {what}: {fix}")
    if missing:
        raise InfrastructureError(f"this machine lacks {', '.join(missing)}: install what the lines above name")


def _find_missing(
    description: EnvironmentDescription,
    roots: tuple[Path, ...],
    environ: Mapping[str, str],
    *,
    python: str | None,
    clones: bool,
) -> Iterator[tuple[str, str]]:
    """Yield what is missing and the remedy; packages are those of Debian and Ubuntu."""
    path = environ.get("PATH")
    if clones and not find_tool(("git",), path):
        yield "git", "apt install git"
    base = next((base for root in roots if (base := find_base(root, description))), None)
    if description.image:
        missing = () if base else tuple(name for name in PROGRAMS if not find_tool((name,), path))
        yield from ((name, f"apt install {name}") for name in missing)
        return  # compilers and headers are the image's
    interpreter = python or (str(base.python) if base else find_python(description.python, environ))
    if interpreter is None and not isinstance(find_installer(environ), UvInstaller):
        yield (
            f"Python {description.python}",
            "apt install python3.12 python3.12-dev, or: pip install uv, which brings one",
        )
    if description.compiler == "none":
        return
    compilers = {"c": ("cc", "gcc", "clang"), "c++": ("c++", "g++", "clang++")}[description.compiler]
    package = {"c": "gcc libc6-dev", "c++": "g++"}[description.compiler]
    if not find_tool(compilers, path):
        yield f"{description.compiler.upper()} compiler", f"apt install {package}"
    if interpreter is not None and not (headers := read_headers(interpreter)).ok:
        version = ".".join(map(str, parse_version(headers.text.partition(":")[0].removeprefix("Python "))[:2]))
        yield "Python headers", f"apt install python{version or sys.version_info.major}-dev ({headers.text})"
