"""A subject's commit over a base: built without network, in a sandbox, and imported as its description says."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.overlay import build_overlay
from ci.errors import InfrastructureError, RequestError
from ci.subjects.failure import SubjectCrashError
from ci.subjects.sandbox import Isolation, detect_isolation
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_subject

if TYPE_CHECKING:
    from ci.environments.base import BaseEnvironment

ISOLATION = detect_isolation()
BARE = Isolation(None, "switched off")
both = pytest.mark.parametrize("isolation", [BARE, ISOLATION] if ISOLATION.applied else [BARE])


@both
def test_a_checkout_with_odd_packaging_becomes_importable(
    base: BaseEnvironment, isolation: Isolation, tmp_path: Path
) -> None:
    overlay = build_overlay(
        base.python, DESCRIPTION, write_subject(tmp_path / "checkout"), tmp_path / "overlay", isolation
    )
    code = "import standin._data, standin.below; print(standin.__file__)"
    done = subprocess.run(
        [str(base.python), "-P", "-c", code], env={"PYTHONPATH": str(overlay.path)}, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(tmp_path / "overlay")), done.stderr
    assert not (tmp_path / "checkout" / "build").exists()


@both
@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("setup.py", "raise SystemExit('will not build')", "the subject's build failed: .*"),
        ("standin/_data.c", "#error broken", "the subject's build failed: .*_data.c:1:2: error: #error broken"),
        ("standin/__init__.py", "import nothing_of_that_name", "the subject's import failed: .*nothing_of_that_name"),
    ],
)
def test_what_fails_is_the_subjects_failure(
    base: BaseEnvironment, isolation: Isolation, tmp_path: Path, file: str, text: str, said: str
) -> None:
    checkout = write_subject(tmp_path / "checkout")
    (checkout / file).write_text(text)
    with pytest.raises(SubjectCrashError, match=said):
        build_overlay(base.python, DESCRIPTION, checkout, tmp_path / "overlay", isolation)


PURE = 'import setuptools\nsetuptools.setup(name="standin", version="1.2", packages=setuptools.find_packages())\n'


def write_pure(checkout: Path, files: dict[str, str]) -> Path:
    """A checkout without a compiled extension."""
    for name, text in {"setup.py": PURE, "standin/__init__.py": "", **files}.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    return checkout


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(0)", "its process ended before the import was complete"),
        ("import os; os._exit(0)", "its process ended before the import was complete"),
        ("import ctypes; ctypes.string_at(0)", "import failed: (?!Successfully).*exit code"),
    ],
)
def test_an_import_that_ends_the_process_is_no_import(
    base: BaseEnvironment, tmp_path: Path, code: str, said: str
) -> None:
    """With 0 too; and the line that is told is not one of the build, which succeeded."""
    checkout = write_pure(tmp_path / "checkout", {"standin/__init__.py": code})
    description = replace(DESCRIPTION, import_test="import standin")
    with pytest.raises(SubjectCrashError, match=said):
        build_overlay(base.python, description, checkout, tmp_path / "overlay", BARE)


VERSION_FROM_GIT = """import os, setuptools
version = os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]  # as setuptools-scm reads it where there is no .git
setuptools.setup(name="standin", version=version, packages=["standin"])
"""


@pytest.mark.parametrize(
    ("environment", "version"), [({}, "0.dev0"), ({"SETUPTOOLS_SCM_PRETEND_VERSION": "2.7"}, "2.7")]
)
def test_a_version_that_comes_from_git_is_given(
    base: BaseEnvironment, tmp_path: Path, environment: dict[str, str], version: str
) -> None:
    checkout = write_pure(tmp_path / "checkout", {"setup.py": VERSION_FROM_GIT})
    description = replace(DESCRIPTION, install="wheel", import_test="import standin", environment=environment)
    overlay = build_overlay(base.python, description, checkout, tmp_path / "overlay", BARE)
    assert [path.name for path in overlay.path.glob("*.dist-info")] == [f"standin-{version}.dist-info"]


def test_a_package_called_build_belongs_to_the_source(base: BaseEnvironment, tmp_path: Path) -> None:
    """What a build left there before does not: it may be another commit's."""
    files = {"standin/build/__init__.py": "", "standin/build/lib.py": "", "build/own.py": "OWN = 1\n"}
    left = {"build/lib/standin/stale.py": "", "build/temp.linux-x86_64/a.o": "", "native/build/CMakeCache.txt": ""}
    imports = "import sys; sys.path.insert(0, 'build'); import own\n"
    checkout = write_pure(tmp_path / "checkout", {**files, **left, "setup.py": imports + PURE})
    description = replace(DESCRIPTION, import_test="import standin.build.lib")
    overlay = build_overlay(base.python, description, checkout, tmp_path / "overlay", BARE)
    copied = {str(path.relative_to(tmp_path / "overlay" / "source")) for path in overlay.path.rglob("*")}
    assert files.keys() <= copied
    assert not {"build/lib/standin/stale.py", "build/temp.linux-x86_64/a.o", "native/build"} & copied


def test_an_extension_is_built_with_the_descriptions_flags_and_without_debug_information(
    base: BaseEnvironment, tmp_path: Path
) -> None:
    checkout = write_subject(tmp_path / "checkout")
    source = checkout / "standin" / "_data.c"
    source.write_text("#ifndef WANTED\n#error not wanted\n#endif\n" + source.read_text())
    description = replace(DESCRIPTION, environment={"CPPFLAGS": "-DWANTED"})
    overlay = build_overlay(base.python, description, checkout, tmp_path / "overlay", BARE)
    (built,) = overlay.path.rglob("_data*.so")
    assert b".debug_info" not in built.read_bytes()


ATTACK = """
import os, pathlib, sys
for path in {paths!r}:
    try:
        with open(path, "a") as file:
            file.write("evil")
    except OSError as error:
        print("refused", path, error, flush=True)
    else:
        print("WROTE", path, flush=True)
"""


@pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}")
def test_a_build_can_write_nowhere_else(base: BaseEnvironment, tmp_path: Path) -> None:
    checkout = write_subject(tmp_path / "checkout")
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o666)
    site = next(base.path.glob("lib/python3*/site-packages"))
    paths = [str(outside), str(site / "evil.pth"), str(Path(__file__)), str(tmp_path / "new")]
    (checkout / "setup.py").write_text(ATTACK.format(paths=paths) + (checkout / "setup.py").read_text())
    overlay = build_overlay(base.python, DESCRIPTION, checkout, tmp_path / "overlay", ISOLATION)
    assert "WROTE" not in overlay.log.read_text()
    assert outside.read_text() == ""


def test_a_checkout_that_is_not_there_is_a_wrong_request(base: BaseEnvironment, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a checkout"):
        build_overlay(base.python, DESCRIPTION, tmp_path / "none", tmp_path / "overlay", BARE)


def test_a_checkout_with_a_device_is_not_copied(base: BaseEnvironment, tmp_path: Path) -> None:
    import os

    checkout = write_subject(tmp_path / "checkout")
    os.mkfifo(checkout / "fifo")
    with pytest.raises(InfrastructureError, match="cannot be copied"):
        build_overlay(base.python, DESCRIPTION, checkout, tmp_path / "overlay", BARE)
