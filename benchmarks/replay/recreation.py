"""Puts a fixed bug back into a scratch copy of a git checkout, which itself is only read."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from benchmarks.replay.records import CannotRunError, NotRun, Pair, Recreation, Reversal, Substitution

if TYPE_CHECKING:
    from pathlib import Path

EXTENSIONS = ("*.so",)
"""Built files that git ignores, and that the copy needs beside its sources."""


def copy_checkout(source: Path, target: Path) -> Path:
    """Clone the commit that `source` is at into `target`.

    The clone shares the source's objects, and has copies of the extensions that were built there.
    """
    run_git(source, "clone", "--quiet", "--shared", "--no-tags", str(source.resolve()), str(target))
    run_git(target, "checkout", "--quiet", "--detach", read_commit(source))
    for pattern in EXTENSIONS:
        for built in source.rglob(pattern):
            place = target / built.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(built, place)
    return target


def read_commit(checkout: Path) -> str:
    """Return the full id of the commit that a checkout is at."""
    return run_git(checkout, "rev-parse", "HEAD").strip()


def recreate(pair: Pair, copy: Path) -> None:
    """Put the bug of a pair into a clean copy.

    Raises CannotRunError where its place has moved, or for the pair's own reason, or where nothing differs from the
    commit: a bug that changed nothing would look like a bug that was missed.
    """
    _apply(pair.recreation, pair.commit, copy)
    if not run_git(copy, "diff", "HEAD", "--name-only").strip():
        raise CannotRunError(f"putting {pair.commit} back changes no file")


def restore(copy: Path) -> None:
    """Undo every change of a copy's tracked files."""
    run_git(copy, "reset", "--quiet", "--hard", "HEAD")


def _apply(recreation: Recreation, commit: str, copy: Path) -> None:
    match recreation:
        case NotRun(reason):
            raise CannotRunError(reason)
        case Reversal(files):
            _reverse(commit, files, copy)
        case substitutions:
            for substitution in substitutions:
                _substitute(substitution, copy)


def _reverse(commit: str, files: tuple[str, ...], copy: Path) -> None:
    try:
        change = run_git(copy, "diff", f"{commit}^", commit, "--", *files)
    except CannotRunError:
        raise CannotRunError(f"the checkout's history has no commit {commit} with its parent") from None
    if not change:
        raise CannotRunError(f"{commit} does not change {', '.join(files)}")
    try:
        run_git(copy, "apply", "--reverse", "--3way", "--whitespace=nowarn", "-", text=change)
    except CannotRunError:
        raise CannotRunError(f"{commit} cannot be reversed: its lines in {', '.join(files)} have changed") from None


def _substitute(substitution: Substitution, copy: Path) -> None:
    path = copy / substitution.file
    if not path.is_file():
        raise CannotRunError(f"{substitution.file} is not there any more")
    text = path.read_text(encoding="utf-8")
    changed, count = re.subn(substitution.pattern, substitution.replacement, text, flags=re.MULTILINE)
    if count != substitution.count:
        expected = f"{count} times, not {substitution.count}"
        raise CannotRunError(f"{substitution.file} has changed: /{substitution.pattern}/ matches {expected}")
    path.write_text(changed, encoding="utf-8")


def run_git(directory: Path, *words: str, text: str | None = None) -> str:
    """Return what a git command prints. Raises CannotRunError with git's last line."""
    done = subprocess.run(
        ["git", "-C", str(directory), "-c", "advice.detachedHead=false", *words],
        **{"input": text} if text is not None else {"stdin": subprocess.DEVNULL},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotRunError(f"git {words[0]}: {last}")
    return done.stdout
