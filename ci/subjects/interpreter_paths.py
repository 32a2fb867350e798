"""The directories that an interpreter and its compilers need to see, read from records: nothing of theirs is run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ci.subjects.image_root import find_image_root

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX_PARTS = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
"""The parts of a Python installation: what else lies in its prefix, a home directory for one, stays unseen."""


def list_interpreter_directories(python: Path) -> tuple[Path, ...]:
    """List what a Python interpreter must see: its environment, the one below it, editable checkouts.

    An interpreter in a container image sees that image, and nothing is listed. Nothing of the interpreter is run:
    pyvenv.cfg and the installed records say it. Of a script that starts an interpreter, its directory and that
    interpreter's are listed.
    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    program = python.absolute()
    if find_image_root(program):
        return ()
    if starter := _read_shebang(program):
        return tuple(dict.fromkeys((program.parent, *list_interpreter_directories(starter))))
    environment = program.parent.parent
    homes = [program.resolve().parent.parent]
    if (config := environment / "pyvenv.cfg").is_file():
        homes.append(environment)
        if home := re.search(r"^home\s*=\s*(.+?)\s*$", config.read_text(encoding="utf-8"), re.MULTILINE):
            homes += [prefix for prefix in (Path(home.group(1)).parent,) if _has_library(prefix)]
    parts = [home / name for home in homes if home != Path("/usr") for name in PREFIX_PARTS if (home / name).exists()]
    links = [link for link in _list_links(program) if not any(link.is_relative_to(part) for part in parts)]
    return tuple(dict.fromkeys([*parts, *links, *(source for home in homes for source in _list_linked_sources(home))]))


def _list_links(program: Path) -> list[Path]:
    """List the links by which an environment's own link reaches its interpreter, such as one in ~/.local/bin."""
    links: list[Path] = []
    path = program
    while path.is_symlink() and path not in links:
        links.append(path)
        path = Path(os.path.normpath(path.parent / path.readlink()))
    return [link for link in links[1:] if not link.is_relative_to("/usr")]


def _has_library(prefix: Path) -> bool:
    """Return whether a directory is the prefix of a Python: ~/.local, with a link in its bin, is none."""
    return any(prefix.glob("lib*/python3*/os.py"))


def list_tool_directories(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """List the directories of compilers and libraries that the environment names and that are not below /usr."""
    set_compilers = [value for name in ("CC", "CXX") if (value := environment.get(name, "")).startswith("/")]
    compilers = [Path(value.split()[0]) for value in set_compilers]
    listed = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH") if name in environment]
    named = [Path(word) for value in listed for word in value.split(os.pathsep) if word.startswith("/")]
    places = [*(compiler.resolve().parent.parent for compiler in compilers), *named]
    below_usr = [place for place in places if place.is_relative_to("/usr") or place == Path("/")]
    return tuple(dict.fromkeys(place for place in places if place.is_dir() and place not in below_usr))


def _read_shebang(program: Path) -> Path | None:
    try:
        with program.open("rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    words = first[2:].split() if first.startswith(b"#!") else []
    return Path(os.fsdecode(words[0])) if words else None


def _list_linked_sources(environment: Path) -> list[Path]:
    """List directories outside of an environment that its site-packages import from."""
    sources = []
    for record in environment.glob("lib/python3*/site-packages/*.pth"):
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
        sources += [Path(line) for line in lines if line.startswith("/") and Path(line).is_dir()]
    for record in environment.glob("lib/python3*/site-packages/*.dist-info/direct_url.json"):
        text = record.read_text(encoding="utf-8", errors="replace")
        url = re.search(r'"url":\s*"file://(/[^"]+)"', text) if '"editable"' in text else None
        sources += [Path(url.group(1))] if url and Path(url.group(1)).is_dir() else []
    return sources
