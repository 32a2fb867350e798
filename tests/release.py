"""What a release must be: the tag, the version, the changelog and the built files agree.

    python -m tests.release check v0.1.0          tag, pyproject.toml and CHANGELOG.md
    python -m tests.release files v0.1.0 dist     one wheel and one source archive, of that version
    python -m tests.release notes v0.1.0          the changelog's section, for the release's page

Needs the standard library alone: the release workflow calls it before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
TAG = re.compile(r"v(?P<version>\d+\.\d+\.\d+)")
HEADING = re.compile(r"^## (?P<version>\d+\.\d+\.\d+) - (?P<date>\d{4}-\d{2}-\d{2})$", re.MULTILINE)


class ReleaseError(Exception):
    """What does not agree, and where."""


def read_version(tag: str) -> str:
    """Return the version that a tag names. Raises ReleaseError for another form than vX.Y.Z."""
    match = TAG.fullmatch(tag)
    if match is None:
        raise ReleaseError(f"tag {tag!r}: expected vX.Y.Z, like v0.1.0")
    return match["version"]


def check_agreement(tag: str, root: Path = ROOT) -> str:
    """Return the version of a tag that pyproject.toml and the newest section of the changelog have too."""
    version = read_version(tag)
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if declared != version:
        raise ReleaseError(f"tag {tag}: pyproject.toml has version {declared}; tag the commit that says {version}")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = HEADING.search(changelog)
    if newest is None or newest["version"] != version:
        found = newest["version"] if newest else "none"
        raise ReleaseError(f"CHANGELOG.md: the newest dated section is {found}, expected '## {version} - YYYY-MM-DD'")
    if unreleased := read_section(changelog, "Unreleased"):
        raise ReleaseError(f"CHANGELOG.md: 'Unreleased' still has {unreleased.splitlines()[0][:60]!r}; move it down")
    return version


def read_notes(tag: str, root: Path = ROOT) -> str:
    """Return what the changelog says of a tag's version. Raises ReleaseError where it says nothing."""
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    notes = read_section(changelog, f"{read_version(tag)} - ")
    if not notes:
        raise ReleaseError(f"CHANGELOG.md: nothing is said of {tag}")
    return notes


def read_section(changelog: str, title: str) -> str:
    """Return the text below the heading that begins with a title, without it; "" where there is none."""
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.startswith(title):
            return text.strip()
    return ""


def check_files(tag: str, dist: Path) -> tuple[Path, Path]:
    """Return the wheel and the source archive of a folder, which both must be of the tag's version and no more."""
    version = read_version(tag)
    expected = {f"hub_tests-{version}-py3-none-any.whl", f"hub_tests-{version}.tar.gz"}
    names = {path.name for path in dist.iterdir()}
    if names != expected:
        raise ReleaseError(
            f"{dist}: has {', '.join(sorted(names)) or 'nothing'}, expected {', '.join(sorted(expected))}"
        )
    wheel, archive = (dist / name for name in sorted(expected))
    for path, text in ((wheel, _read_wheel(wheel)), (archive, _read_archive(archive))):
        told = Parser().parsestr(text)
        if (told["Name"], told["Version"]) != ("hub-tests", version):
            raise ReleaseError(
                f"{path}: its metadata has {told['Name']} {told['Version']}, expected hub-tests {version}"
            )
    return wheel, archive


def _read_wheel(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def _read_archive(path: Path) -> str:
    with tarfile.open(path) as archive:
        member = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        return member.read().decode() if member else ""


def main(words: list[str]) -> int:
    """Do one of the three things above; what does not agree is said in one line."""
    verbs = {"check": check_agreement, "notes": read_notes}
    try:
        if words[:1] == ["files"] and len(words) == 3:
            print(*check_files(words[1], Path(words[2])))
        elif len(words) == 2 and words[0] in verbs:
            print(verbs[words[0]](words[1]))
        else:
            raise ReleaseError(f"expected 'check TAG', 'notes TAG' or 'files TAG FOLDER', got {' '.join(words)!r}")
    except ReleaseError as problem:
        print(f"release: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
