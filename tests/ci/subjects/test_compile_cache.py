"""A worker's private copy: filled from layers, kept only by a run that may, and never the reason that a run fails."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ci.errors import RequestError
from ci.subjects import compile_cache
from ci.subjects.compile_cache import INSIDE, VARIABLES, CompileCache, CompiledCode, choose_compile_cache
from ci.subjects.compile_layers import list_layers
from ci.subjects.sandbox import Isolation
from tests.ci.subjects.test_compile_layers import FILES, read_tree, write_tree

NONE = Isolation(None, "not asked for")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def prepare(tmp_path: Path, *, fill: bool = False) -> CompiledCode:
    (tmp_path / "exchange").mkdir(exist_ok=True)
    cache = CompileCache(tmp_path / "cache", fill)
    return CompiledCode.prepare(cache, Path(sys.executable), tmp_path / "exchange", NONE)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The directory after one trusted run."""
    code = prepare(tmp_path, fill=True)
    write_tree(code.directory, FILES)
    assert code.keep()
    return tmp_path


def test_what_a_trusted_run_compiled_the_next_one_has(filled: Path) -> None:
    code = prepare(filled)
    assert read_tree(code.directory) == FILES
    assert code.in_use
    assert code.figures["compile_cache_files"] == 3
    assert code.figures["compile_cache_bytes"] == sum(map(len, FILES.values()))
    assert code.describe() == "3 files (0.0 MiB) of 1 earlier runs"


def test_a_copy_is_of_its_own(filled: Path) -> None:
    before, code = read_tree(filled / "cache"), prepare(filled)
    for path in code.directory.rglob("*"):
        if path.is_file():
            path.write_bytes(b"evil")
    assert read_tree(filled / "cache") == before
    assert read_tree(prepare(filled).directory) == FILES


def test_an_untrusted_run_keeps_nothing(filled: Path) -> None:
    before, code = read_tree(filled / "cache"), prepare(filled)
    write_tree(code.directory, {"more": b"x"})
    assert code.keep() is None
    assert read_tree(filled / "cache") == before


def test_a_trusted_run_keeps_only_what_is_new(filled: Path) -> None:
    code = prepare(filled, fill=True)
    assert code.keep() is None
    write_tree(code.directory, {"more": b"x", "inductor/ab/cab.so": b"changed"})
    assert code.keep()
    assert read_tree(prepare(filled).directory) == {**FILES, "more": b"x"}


def test_a_crash_keeps_nothing_until_the_copy_was_emptied(filled: Path) -> None:
    code = prepare(filled, fill=True)
    write_tree(code.directory, {"more": b"x"})
    code.crashed = True
    assert code.keep() is None
    assert code.drop()
    assert list(code.directory.iterdir()) == []
    write_tree(code.directory, {"anew": b"x"})
    assert code.keep()
    assert not code.drop()
    assert set(read_tree(prepare(filled).directory)) == {*FILES, "anew"}


def test_stale_layers_are_removed_by_a_run_that_may(filled: Path) -> None:
    reader = prepare(filled)
    reader.drop()
    reader.stale = True
    reader.keep()
    assert len(list_layers(filled / "cache")) == 1
    code = prepare(filled, fill=True)
    code.drop()
    code.stale = True
    write_tree(code.directory, {"anew": b"x"})
    code.keep()
    assert read_tree(prepare(filled).directory) == {"anew": b"x"}
    assert code.describe().endswith("dropped after a failure, which they had caused")


def test_the_newest_layer_wins_and_layers_fit(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = prepare(filled, fill=True), prepare(filled, fill=True)
    write_tree(one.directory, {"both": b"one", "one": b"1"})
    write_tree(two.directory, {"both": b"two", "two": b"2"})
    older, newer = one.keep(), two.keep()
    assert older
    assert newer
    os.utime(older.path, (1000, 1000))
    assert read_tree(prepare(filled).directory) == {**FILES, "both": b"two", "one": b"1", "two": b"2"}
    monkeypatch.setattr(compile_cache, "MAX_GIVEN_BYTES", newer.size)
    order = [layer.path for layer in list_layers(filled / "cache")]
    assert [layer.path for layer in prepare(filled).layers] == order[:1]


def test_a_full_disk_gives_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 2**29))
    code = prepare(filled, fill=True)
    assert not code.in_use
    assert "do not fit on the disk" in code.describe()


def test_a_copy_that_cannot_be_written_is_emptied(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(_: object, path: Path) -> None:
        if path.name == "k.cubin":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache, "make_accessible", give)
    code = prepare(filled)
    assert not code.in_use
    assert list(code.directory.iterdir()) == []
    assert "No space left on device; no compiled code was used" in code.describe()


@pytest.mark.parametrize("fill", [False, True])
def test_a_directory_of_everybody_is_neither_read_nor_filled(fill: bool, filled: Path) -> None:
    (filled / "cache").chmod(0o777)
    code = prepare(filled, fill=fill)
    assert not code.in_use
    write_tree(code.directory, {"more": b"x"})
    assert code.keep() is None
    assert len(list_layers(filled / "cache")) == 1
    assert "everybody may write there" in code.describe()


def test_a_cache_that_is_not_there_or_no_directory(tmp_path: Path) -> None:
    assert prepare(tmp_path).describe() == "0 files (0.0 MiB) of 0 earlier runs"
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").write_text("")
    code = prepare(tmp_path, fill=True)
    write_tree(code.directory, FILES)
    assert code.keep() is None
    assert "not kept: " in code.describe()


def test_only_a_trusted_run_removes_a_damaged_layer(filled: Path) -> None:
    layer = list_layers(filled / "cache")[0]
    os.truncate(layer.path, 100)
    assert "damaged" in prepare(filled).describe()
    assert layer.path.exists()
    assert "damaged" in prepare(filled, fill=True).describe()
    assert not layer.path.exists()


def test_a_directory_that_is_not_named_cannot_be_filled(tmp_path: Path) -> None:
    assert choose_compile_cache(None, fill=False) is None
    assert choose_compile_cache(tmp_path / "mine", fill=True) == CompileCache(tmp_path / "mine", fill=True)
    with pytest.raises(RequestError, match="--fill-compile-cache needs the directory"):
        choose_compile_cache(None, fill=True)


def test_every_cache_is_below_the_copy_and_none_is_remote() -> None:
    paths = [value for name, value in VARIABLES.items() if name.endswith(("_DIR", "_PATH"))]
    assert len(paths) == 3
    assert all(path.startswith(f"{INSIDE}/") for path in paths)
    assert {value for name, value in VARIABLES.items() if "REMOTE" in name} == {"0"}
