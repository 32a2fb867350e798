"""A release's tag, version, changelog and files: they agree here, and what does not agree is named."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests import release, try_installed
from tests.release import ReleaseError

ROOT = Path(__file__).parents[1]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CHANGELOG = """# Changelog

## Unreleased

## 1.2.3 - 2026-11-27

- One.

More:

- Two.

## 1.2.2 - 2026-11-01

- Old.
"""


def make_root(folder: Path, version: str = "1.2.3", changelog: str = CHANGELOG) -> Path:
    (folder / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    return folder


def test_the_newest_section_of_the_changelog_is_the_version_that_is_declared() -> None:
    newest = release.HEADING.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest is not None
    assert newest["version"] == VERSION
    assert release.read_notes(f"v{VERSION}")


def test_a_tag_agrees_with_version_and_changelog(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    assert release.check_agreement("v1.2.3", root) == "1.2.3"
    assert release.read_notes("v1.2.3", root) == "- One.\n\nMore:\n\n- Two."
    assert release.read_notes("v1.2.2", root) == "- Old."


@pytest.mark.parametrize(
    ("tag", "version", "old", "new", "said"),
    [
        ("1.2.3", "1.2.3", "", "", "expected vX.Y.Z"),
        ("v1.2.3rc1", "1.2.3", "", "", "expected vX.Y.Z"),
        ("v1.2.3\n", "1.2.3", "", "", "expected vX.Y.Z"),
        ("v1.2.4", "1.2.3", "", "", "pyproject.toml has version 1.2.3"),
        ("v1.2.4", "1.2.4", "", "", "the newest dated section is 1.2.3"),
        ("v1.2.3", "1.2.3", "2026-11-27", "soon", "the newest dated section is 1.2.2"),
        ("v1.2.3", "1.2.3", "## Unreleased\n", "## Unreleased\n\n- Forgotten.\n", "'- Forgotten.'"),
    ],
)
def test_what_does_not_agree_is_named(tag: str, version: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    root = make_root(tmp_path, version, CHANGELOG.replace(old, new) if old else CHANGELOG)
    with pytest.raises(ReleaseError, match=said.replace(".", r"\.")):
        release.check_agreement(tag, root)


def test_a_version_without_a_word_has_no_notes(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"nothing is said of v2\.0\.0"):
        release.read_notes("v2.0.0", make_root(tmp_path))


def make_files(dist: Path, named: str = "1.2.3", told: str = "1.2.3") -> None:
    dist.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.4\nName: hub-tests\nVersion: {told}\n".encode()
    with zipfile.ZipFile(dist / f"hub_tests-{named}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"hub_tests-{named}.dist-info/METADATA", metadata)
    with tarfile.open(dist / f"hub_tests-{named}.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(f"hub_tests-{named}/PKG-INFO")
        member.size = len(metadata)
        archive.addfile(member, io.BytesIO(metadata))


def test_the_files_of_a_release_are_one_wheel_and_one_archive_of_its_version(tmp_path: Path) -> None:
    make_files(tmp_path / "dist")
    wheel, archive = release.check_files("v1.2.3", tmp_path / "dist")
    assert (wheel.suffix, archive.suffix) == (".whl", ".gz")
    with pytest.raises(ReleaseError, match=r"expected hub_tests-1\.2\.4-py3"):
        release.check_files("v1.2.4", tmp_path / "dist")
    (tmp_path / "dist/left-over.txt").touch()
    with pytest.raises(ReleaseError, match="left-over"):
        release.check_files("v1.2.3", tmp_path / "dist")


def test_files_whose_metadata_has_another_version_are_refused(tmp_path: Path) -> None:
    make_files(tmp_path / "dist", told="1.2.2")
    with pytest.raises(ReleaseError, match=r"its metadata has hub-tests 1\.2\.2, expected hub-tests 1\.2\.3"):
        release.check_files("v1.2.3", tmp_path / "dist")


def test_the_commands_need_the_standard_library_alone() -> None:
    command = [sys.executable, "-S", "-m", "tests.release"]
    right = subprocess.run([*command, "notes", f"v{VERSION}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (right.returncode, right.stderr) == (0, "")
    wrong = subprocess.run([*command, "check", "v9.9.9"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("release: tag v9.9.9: pyproject.toml has version ")
    assert release.main(["files"]) == 2


def test_the_package_tells_where_it_comes_from() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(urls)


def test_an_installation_that_does_not_work_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "hub-tests"
    broken.write_text("#!/bin/sh\necho no module >&2\nexit 70\n")
    broken.chmod(0o755)
    with pytest.raises(SystemExit, match=r"hub-tests --help: exit code 70\nno module"):
        try_installed.try_installed(broken, suite=False)
