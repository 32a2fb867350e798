"""The lock from which jobs with a token install: it has a hash for each file, and it satisfies what is declared."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/base.lock"
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PYTHONS = ("3.11", "3.12", "3.13")


def locked(lock: Path = LOCK) -> list[tuple[Requirement, int]]:
    """Each locked requirement, with the number of its hashes."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [
        (Requirement(line.split(" --hash")[0].strip()), line.count("--hash=sha256:"))
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def declared(extra: str = "base") -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    words = [] if extra == "base" else project["project"]["optional-dependencies"][extra]
    everywhere = (*project["project"]["dependencies"], *project["build-system"]["requires"])
    return [Requirement(text) for text in (*everywhere, *words)]


def on_linux(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_the_lock_satisfies_what_is_declared(python: str, lock: Path) -> None:
    pins = {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement, _ in locked(lock)
        if requirement.marker is None or requirement.marker.evaluate(on_linux(python))
    }
    for requirement in declared(lock.stem):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked: renew the lock"
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked, renew the lock"


def test_the_locks_agree_where_they_overlap() -> None:
    base = {str(requirement) for requirement, _ in locked()}
    for lock in LOCKS:
        assert base <= {str(requirement) for requirement, _ in locked(lock)}, lock


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_is_pinned_and_has_hashes(lock: Path) -> None:
    assert len(locked(lock)) > 20
    for requirement, hashes in locked(lock):
        assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement
        assert hashes > 0, requirement
        assert requirement.url is None, requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_the_lock_names_no_place(lock: Path) -> None:
    """Where packages come from is the installing machine's own setting."""
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"https?://|^\s*-", text.replace("    --hash=", ""), re.MULTILINE)


def test_a_marker_chooses_by_python() -> None:
    assert not Marker("python_full_version >= '3.12'").evaluate(on_linux("3.11"))


def test_the_builder_is_what_the_project_builds_with() -> None:
    (builder,) = [line for line in (ROOT / "requirements/build.in").read_text().splitlines() if line[0] != "#"]
    assert [Requirement(builder)] == [Requirement(text) for text in declared_builders()]


def declared_builders() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    builders: list[str] = project["build-system"]["requires"]
    return builders


def test_the_service_is_installed_from_the_lock_first() -> None:
    action = (ROOT / ".github/actions/setup/action.yml").read_text(encoding="utf-8")
    installs = [line.strip() for line in action.splitlines() if line.strip().startswith("pip -")]
    assert installs == [
        'pip --require-hashes -r "service/requirements/$LOCK.lock"',
        "pip --no-deps --no-build-isolation ./service",
    ]
    assert yaml.safe_load(action)["inputs"]["lock"]["default"] == "base"


def test_a_workflow_names_locks_that_are_there() -> None:
    workflow = (ROOT / ".github/workflows/hub-tests.yml").read_text(encoding="utf-8")
    choices = re.findall(r"^ +lock: (.*)$", workflow, re.MULTILINE)
    assert len(choices) == 3, "the jobs that open the store: fetch, test, and the night's test on the newest libraries"
    for choice in choices:
        named = re.findall(r"(?:&&|\|\|) '(\w+)'", choice)
        assert set(named) == {path.stem for path in LOCKS}
