from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from ci.subjects.provenance import find_commit, installed_versions, python_version

if TYPE_CHECKING:
    from pathlib import Path


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return subprocess.run(
        ["git", *identity, *words], cwd=directory, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_checkout_names_its_commit_and_says_when_it_was_changed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    git(tmp_path, "tag", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert find_commit(package, "package") == head
    (package / "__init__.py").write_text("changed = True\n")
    assert find_commit(package, "package") == f"{head}-dirty"


def test_a_package_inside_somebody_elses_repository_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    package = tmp_path / "venv" / "site-packages" / "package"
    package.mkdir(parents=True)
    assert find_commit(package, "no-such-distribution") is None


def test_libraries_are_those_installed() -> None:
    assert set(installed_versions(("torch", "no-such-distribution"))) == {"torch"}
    assert python_version().startswith("3.")
