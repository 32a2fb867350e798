"""A base environment is whole or not there, built once, and shows every later change."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import (
    MANIFEST,
    BaseEnvironment,
    BaseManifest,
    base_path,
    build_base,
    find_base,
    list_bases,
    list_incomplete,
    mark_used,
    prune_bases,
    read_base,
    use_base,
    verify_base,
)
from ci.environments.installer import PipInstaller
from ci.errors import InfrastructureError
from ci.records import to_json
from tests.ci.environments.conftest import DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class NoInstaller:
    """An installer that must not be asked."""

    description = "none"

    def create(self, *_: object) -> None:
        raise AssertionError("asked to build")

    install = create


def test_it_holds_what_was_described(base: BaseEnvironment) -> None:
    assert {"setuptools", "pybind11", "prebuilt"} <= set(base.manifest.packages)
    assert base.manifest.digest == DESCRIPTION.digest
    assert list_bases(base.path.parent) == (base,)
    assert not verify_base(base)


def test_it_is_built_once(base: BaseEnvironment) -> None:
    assert build_base(base.path.parent, DESCRIPTION, NoInstaller()) == base


def test_nobody_may_write_into_it(base: BaseEnvironment) -> None:
    modes = {path.stat().st_mode & 0o222 for path in base.path.rglob("*") if not path.is_symlink()}
    assert modes == {0}


def test_a_changed_a_missing_and_an_added_file_are_named(base: BaseEnvironment, tmp_path: Path) -> None:
    copy = read_base(Path(shutil.copytree(base.path, tmp_path / "copy", symlinks=True)))
    for path in (copy.path, *copy.path.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    module = next(copy.path.glob("lib/python3*/site-packages/prebuilt.py"))
    module.write_text("VALUE = 2\n")
    (module.parent / "sitecustomize.py").write_text("")
    next(copy.path.glob("lib/python3*/site-packages/pybind11/__init__.py")).unlink()
    said = [problem.rpartition("/")[2] for problem in verify_base(copy)]
    assert said == ["__init__.py is missing", "sitecustomize.py was added", "prebuilt.py was changed"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, index_environ: Mapping[str, str]) -> None:
    missing = replace(DESCRIPTION, requirements=("not-in-the-index",))
    with pytest.raises(InfrastructureError, match="not-in-the-index"):
        build_base(tmp_path, missing, PipInstaller(index_environ))
    assert find_base(tmp_path, missing) is None
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


class OddInstaller:
    """An installer that begins an environment and then fails in an unforeseen way."""

    description = "odd"

    def create(self, path: Path, *_: object) -> None:
        (path / "bin").mkdir(parents=True)
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "odd")

    def install(self, *_: object) -> None:
        raise AssertionError("its environment was not made")


@pytest.mark.parametrize("place", ["file", "link", "dangling", "directory"])
def test_what_lies_in_its_place_is_replaced_and_a_failure_leaves_nothing(place: str, tmp_path: Path) -> None:
    """Whatever fails: no part stays. What a link leads to is not touched."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    path = base_path(root, DESCRIPTION)
    make: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text(""),
        "link": lambda: path.symlink_to(elsewhere),
        "dangling": lambda: path.symlink_to("/nowhere"),
        "directory": lambda: (path / MANIFEST).mkdir(parents=True),
    }
    make[place]()
    with pytest.raises(UnicodeDecodeError):
        build_base(root, DESCRIPTION, OddInstaller())
    assert [file.name for file in root.iterdir()] == [f".{path.name}.lock"]
    assert (elsewhere / "kept").exists()


def test_a_removal_that_is_killed_leaves_nothing_that_looks_complete(
    base: BaseEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rmtree removes in any order: the manifest goes first, else half an environment would be used."""
    copy = tmp_path / base.path.name
    (copy / "bin").mkdir(parents=True)
    (copy / "bin/python").symlink_to(base.python)
    shutil.copy(base.path / MANIFEST, copy / MANIFEST)
    os.utime(copy / MANIFEST, (1000, 1000))
    assert find_base(tmp_path, DESCRIPTION)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune_bases(tmp_path, older_than=3600, keep=frozenset(), dry_run=False)
    assert (copy / "bin/python").is_symlink()
    assert find_base(tmp_path, DESCRIPTION) is None
    assert [(one.path, one.damage) for one in list_incomplete(tmp_path)] == [(copy, "")]


def test_pruning_takes_what_was_not_used(tmp_path: Path) -> None:
    for name in ("old", "new"):
        description = replace(DESCRIPTION, name=name)
        path = tmp_path / f"{name}-{description.digest[:16]}"
        path.mkdir()
        manifest = BaseManifest(description, name, "3.11", {}, "", 0.0, "")
        (path / MANIFEST).write_text(to_json(manifest))
        os.utime(path / MANIFEST, (1000, 1000))
    mark_used(list_bases(tmp_path)[0])
    said = prune_bases(tmp_path, older_than=3600, keep=frozenset(), dry_run=True)
    assert [environment.manifest.description.name for environment in said] == ["old"]
    assert len(list_bases(tmp_path)) == 2
    assert prune_bases(tmp_path, older_than=3600, keep=frozenset({"old"}), dry_run=False) == ()
    old = next(base for base in list_bases(tmp_path) if base.manifest.description.name == "old")
    with use_base(old) as held:
        os.utime(old.path / MANIFEST, (1000, 1000))
        assert held
        assert prune_bases(tmp_path, older_than=3600, keep=frozenset(), dry_run=True) == ()
        assert prune_bases(tmp_path, older_than=3600, keep=frozenset(), dry_run=False) == ()
    prune_bases(tmp_path, older_than=3600, keep=frozenset(), dry_run=False)
    with use_base(old) as held:
        assert not held
    assert [environment.manifest.description.name for environment in list_bases(tmp_path)] == ["new"]


def test_who_waits_for_another_build_says_so(base: BaseEnvironment) -> None:
    told: list[str] = []
    description, root = base.manifest.description, base.path.parent
    with (root / f".{base.path.name}.lock").open("w") as lock, ThreadPoolExecutor(1) as thread:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = thread.submit(build_base, root, description, NoInstaller(), progress=told.append)
        while not told:
            time.sleep(0.01)
        assert not waiting.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result(60) == base
    assert told == [f"waiting for the process that builds {base.path}"]
