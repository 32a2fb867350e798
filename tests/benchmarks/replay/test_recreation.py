"""Bugs put back into a tiny git repository: reversed, substituted, or refused with a reason."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from benchmarks.replay.records import CannotRunError, NotRun, Pair, Recreation, Reversal, Substitution
from benchmarks.replay.recreation import copy_checkout, read_commit, recreate, restore

if TYPE_CHECKING:
    from pathlib import Path

WRONG = "def scale(value):\n    return value * 3\n\n\ndef shift(value):\n    return value + 1\n"
RIGHT = WRONG.replace("* 3", "* 2")


def git(directory: Path, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", str(directory), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(directory: Path, **files: str) -> str:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "change")
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a repository: a bug, its fix (which changes `other` too), and a later commit."""
    directory = tmp_path / "source"
    directory.mkdir()
    git(directory, "init", "-q")
    (directory / ".gitignore").write_text("*.so\n")
    commit(directory, scale=WRONG, other="value = 1\n")
    commit(directory, scale=RIGHT, other="value = 2\n")
    git(directory, "tag", "fix")
    commit(directory, later="pass\n")
    (directory / "built.so").write_bytes(b"\x7fELF")
    return directory


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return copy_checkout(source, tmp_path / "copy")


def make_pair(recreation: Recreation, commit: str = "fix") -> Pair:
    return Pair("bug", commit, "a wrong factor", recreation)


def resolve(source: Path) -> str:
    return git(source, "rev-parse", "fix")


def test_a_copy_is_at_the_same_commit_and_has_the_built_extension(source: Path, copy: Path) -> None:
    assert read_commit(copy) == read_commit(source)
    assert (copy / "built.so").read_bytes() == b"\x7fELF"


def test_a_reversal_undoes_the_fix_in_the_named_files_only(source: Path, copy: Path) -> None:
    recreate(make_pair(Reversal(("scale.py",)), resolve(source)), copy)
    assert (copy / "scale.py").read_text() == WRONG
    assert (copy / "other.py").read_text() == "value = 2\n"
    assert (source / "scale.py").read_text() == RIGHT
    assert git(source, "status", "--porcelain") == ""


def test_restoring_gives_back_the_commit(source: Path, copy: Path) -> None:
    recreate(make_pair(Reversal(("scale.py",)), resolve(source)), copy)
    restore(copy)
    assert (copy / "scale.py").read_text() == RIGHT
    assert git(copy, "status", "--porcelain") == ""


def test_a_reversal_that_conflicts_is_refused_and_can_be_restored(source: Path, copy: Path) -> None:
    fix = resolve(source)
    commit(copy, scale=RIGHT.replace("* 2", "* factor"))
    with pytest.raises(CannotRunError, match=r"cannot be reversed: its lines in scale\.py have changed"):
        recreate(make_pair(Reversal(("scale.py",)), fix), copy)
    restore(copy)
    assert git(copy, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("name", "file", "reason"),
    [("0" * 40, "scale.py", "history has no commit"), ("fix", "later.py", "does not change later.py")],
)
def test_a_reversal_without_a_change_is_refused(source: Path, copy: Path, name: str, file: str, reason: str) -> None:
    with pytest.raises(CannotRunError, match=reason):
        recreate(make_pair(Reversal((file,)), resolve(source) if name == "fix" else name), copy)


def test_a_substitution_edits_the_line_that_matches(copy: Path) -> None:
    recreate(make_pair((Substitution("scale.py", r"(value \*) 2", r"\1 3"),)), copy)
    assert (copy / "scale.py").read_text() == WRONG


@pytest.mark.parametrize(
    ("substitution", "reason"),
    [
        (Substitution("gone.py", "value", ""), "gone.py is not there any more"),
        (Substitution("scale.py", r"value \* 7", ""), "matches 0 times, not 1"),
        (Substitution("scale.py", "return", "yield"), "matches 2 times, not 1"),
        (Substitution("scale.py", r"\* 2", "* 2"), "changes no file"),
    ],
)
def test_a_substitution_that_does_not_fit_is_refused(copy: Path, substitution: Substitution, reason: str) -> None:
    with pytest.raises(CannotRunError, match=reason):
        recreate(make_pair((substitution,)), copy)


def test_a_pair_that_nothing_reaches_says_why(copy: Path) -> None:
    with pytest.raises(CannotRunError, match="needs two processes"):
        recreate(make_pair(NotRun("needs two processes")), copy)
