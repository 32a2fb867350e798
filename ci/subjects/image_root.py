"""The unpacked root of a container image, which takes the place of the machine's own system in a sandbox.

An image is unpacked as an OCI runtime bundle: a directory with `config.json` and the file system `rootfs`. A program
is named by its path on the machine, and runs at its path in the image.
https://github.com/opencontainers/runtime-spec/blob/main/bundle.md
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.judge_environment import find_system_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = "rootfs"
CONFIG = "config.json"
OWN_PLACES = tuple(map(Path, ("/proc", "/sys", "/dev", "/tmp")))  # noqa: S108 (the sandbox's own)
DRIVER = "/tmp/driver"  # noqa: S108 (inside the sandbox)
"""Where a sandbox sees the libraries of the NVIDIA driver, which belong to the machine and are in no image."""
DRIVER_LIBRARY = re.compile(r"lib(?:cuda|nvidia-[a-z-]+|cudadebugger)\.so[.\d]*")
CACHED_LIBRARY = re.compile(r"\s*(\S+) \([^)]*64[^)]*\) => (/\S+)")
"""A line of `ldconfig -p` about a library of 64 bits."""
LDCONFIG_SECONDS = 20


def find_image_root(program: Path) -> Path | None:
    """Return the root of the image that a program lies in, None for a program of the machine."""
    parents = program.absolute().parents
    return next((path for path in parents if path.name == ROOT and (path.parent / CONFIG).is_file()), None)


def is_program(program: Path) -> bool:
    """Return whether there is a program; an image's own links lead to places in the image."""
    if (root := find_image_root(program)) is None:
        return program.is_file() and os.access(program, os.X_OK)
    found = resolve_inside(root, inside_path(root, program))
    return found.is_file() and os.access(found, os.X_OK)


def refuse_unsandboxed(root: Path | None, reason: str) -> None:
    """Raise RequestError for a program of an image where no sandbox can be made, which alone shows it that image."""
    if root:
        raise RequestError(f"{root}: a container image is entered by a sandbox, and there is none: {reason}")


def inside_path(root: Path, program: Path) -> str:
    """Return the path that a program of an image has inside."""
    return f"/{program.absolute().relative_to(root)}"


def resolve_inside(root: Path, path: str, links: int = 40) -> Path:
    """Follow a path's links as a process inside the image would, and return the path on the machine.

    Raises RequestError for more than `links` links.
    """
    found, rest = root, [part for part in path.split("/") if part]
    while rest:
        part = rest.pop(0)
        found = (found if found == root else found.parent) if part == ".." else found / part
        if found.is_symlink():
            if (links := links - 1) < 0:
                raise RequestError(f"{path}: too many links in the image {root}")
            target = str(found.readlink())
            found = root if target.startswith("/") else found.parent
            rest = [part for part in target.split("/") if part not in ("", ".")] + rest
    return found


def read_image_variables(root: Path) -> dict[str, str]:
    """Read the environment variables that the image sets for its programs.

    Raises RequestError where the bundle's config.json is none.
    """
    try:
        words = json.loads((root.parent / CONFIG).read_bytes())["process"]["env"]
        return dict(word.split("=", 1) for word in words)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{root.parent / CONFIG}: not the config.json of an OCI bundle: unpack it again") from None


def list_root_bindings(root: Path, places: Sequence[Path]) -> list[str]:
    """Return bubblewrap's options that show an image's root, with room for directories of the machine at `places`.

    A directory of the image in which a place lies is opened: its entries are bound one by one, so that the place can be
    made beside them. Raises RequestError for a place that the image has as a link or a file.
    """
    return [word for words in _iter_bindings(root, Path("/"), places) for word in words]


def find_setpriv(root: Path) -> str:
    """Return the path inside the image of the program that leaves root. Raises RequestError where it has none."""
    for path in ("/usr/bin/setpriv", "/bin/setpriv"):
        if resolve_inside(root, path).is_file():
            return path
    raise RequestError(
        f"{root}: the image has no setpriv (package util-linux), which a sandbox started by root needs: "
        "install it in the image, or run as another user"
    )


def list_driver_libraries(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """List the machine's libraries of the NVIDIA driver by name, as ld.so(8) finds them: LD_LIBRARY_PATH first."""
    folders = [Path(word) for word in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if word.startswith("/")]
    listed = [file for folder in folders for file in sorted(folder.glob("lib*.so*"))]
    first: dict[str, Path] = {}
    for file in (*listed, *_read_loader_cache()):
        if DRIVER_LIBRARY.fullmatch(file.name):
            first.setdefault(file.name, file)
    return first


def _read_loader_cache() -> list[Path]:
    """List the libraries that the loader knows, without those for processors of 32 bits."""
    try:
        command = [find_system_program("ldconfig"), "-p"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LDCONFIG_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(match[2]) for match in map(CACHED_LIBRARY.match, done.stdout.splitlines()) if match]


def bind_driver(environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return bubblewrap's options that show the driver's libraries, and the variables by which they are found."""
    libraries = list_driver_libraries()
    words = [word for name, file in libraries.items() for word in ("--ro-bind", str(file), f"{DRIVER}/{name}")]
    searched = [DRIVER, *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    return words, {**environment, "LD_LIBRARY_PATH": os.pathsep.join(searched)} if libraries else {**environment}


def _iter_bindings(root: Path, directory: Path, places: Sequence[Path]) -> Iterator[list[str]]:
    """Yield the options for each entry of a directory of the image."""
    for entry in sorted((root / directory.relative_to("/")).iterdir()):
        target = directory / entry.name
        below = [place for place in places if place.is_relative_to(target) and not place.is_relative_to("/tmp")]  # noqa: S108
        if target in OWN_PLACES or target in below:
            continue
        if below and (entry.is_symlink() or not entry.is_dir()):
            raise RequestError(f"{below[0]}: the image has no directory {target}: use a directory at another path")
        if entry.is_symlink():
            yield ["--symlink", str(entry.readlink()), str(target)]
        elif below:
            yield ["--perms", "0755", "--dir", str(target)]
            yield from _iter_bindings(root, target, below)
        else:
            yield ["--ro-bind", str(entry), str(target)]
