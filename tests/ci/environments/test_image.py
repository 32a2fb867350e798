"""A container image as a base environment: unpacked, known by its digest, and entered by builds and workers."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import build_base, find_base_of, list_bases, verify_base
from ci.environments.description import EnvironmentDescription, load_description
from ci.environments.image import ImageInstaller, choose_installer, read_image_digest
from ci.environments.newest import resolve_newest
from ci.environments.overlay import build_overlay
from ci.environments.prerequisites import check_prerequisites
from ci.environments.wheel_folder import keep_wheels
from ci.errors import InfrastructureError, RequestError
from ci.subjects import sandbox
from ci.subjects.compile_key import hash_packages
from ci.subjects.exchange import Exchange, hostile_directory
from ci.subjects.failure import SubjectCrashError
from ci.subjects.sandbox import Isolation, detect_isolation
from ci.subjects.worker_launch import WorkerLaunch
from ci.subjects.worker_process import WorkerProcess
from tests.ci.environments.images import MARKER, PYTHON, SET_ID

if TYPE_CHECKING:
    from ci.environments.base import BaseEnvironment

ISOLATION = detect_isolation()
CHECK = f"""
import os, pathlib, subject
assert pathlib.Path({MARKER!r}).read_text() == "the image", "another file"
assert not os.path.exists("/usr/bin/env"), "the machine's programs are here"
assert os.environ["FROM_IMAGE"] == "yes" and os.environ["LD_LIBRARY_PATH"] == "/opt/lib"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A subject that setuptools builds."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "setup.py").write_text("import setuptools; setuptools.setup(name='subject', py_modules=['subject'])\n")
    (folder / "subject.py").write_text("")
    return folder


def test_the_manifest_names_the_image_and_its_packages(image_base: BaseEnvironment) -> None:
    manifest = image_base.manifest
    index = json.loads((Path(manifest.description.image.split(":")[1]) / "index.json").read_bytes())
    assert manifest.image_digest == index["manifests"][0]["digest"]
    assert manifest.installer.startswith("skopeo ")
    assert "setuptools" in manifest.packages
    assert image_base.python == image_base.path / "rootfs" / PYTHON.lstrip("/")
    assert list_bases(image_base.path.parent) == (image_base,)
    assert find_base_of(image_base.python) == image_base


def test_it_is_read_only_and_verified(image_base: BaseEnvironment) -> None:
    assert verify_base(image_base) == ()
    file = image_base.path / "rootfs" / MARKER.lstrip("/")
    assert not stat.S_IMODE(file.stat().st_mode) & 0o222
    file.chmod(0o644)
    file.write_text("another")
    assert verify_base(image_base) == (f"rootfs{MARKER} was changed",)
    file.write_text("the image")
    file.chmod(0o444)


def test_no_program_of_it_runs_as_the_one_who_unpacked_it(image_base: BaseEnvironment) -> None:
    place = SET_ID.lstrip("/")
    with tarfile.open(image_base.path.parent.parent / "layer.tar") as layer:
        assert layer.getmember(f"./{place}").mode == 0o6755
    assert stat.S_IMODE((image_base.path / "rootfs" / place).stat().st_mode) == 0o555


def test_without_a_sandbox_nothing_is_fetched(
    image_base: BaseEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Isolation(None, "bubblewrap cannot make a sandbox here: no permission")
    monkeypatch.setattr(sandbox, "detect_isolation", lambda: bare)
    told: list[str] = []
    with pytest.raises(InfrastructureError, match="bubblewrap cannot make a sandbox here: no permission"):
        build_base(tmp_path / "root", image_base.manifest.description, ImageInstaller(os.environ), progress=told.append)
    assert told == []


def test_a_commit_is_built_and_imported_inside_the_image(
    image_base: BaseEnvironment, checkout: Path, tmp_path: Path
) -> None:
    description = replace(image_base.manifest.description, import_test=CHECK)
    overlay = build_overlay(image_base.python, description, checkout, tmp_path / "overlay", ISOLATION)
    assert (overlay.path / "subject.py").is_file()
    (checkout / "subject.py").write_text("import nothing_of_that_name")
    with pytest.raises(SubjectCrashError, match="nothing_of_that_name"):
        build_overlay(image_base.python, description, checkout, tmp_path / "another", ISOLATION)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A worker's program that answers with what it sees."""
    path = tmp_path / "package" / "below" / "main.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import json, os, sys\n"
        f"seen = [open({MARKER!r}).read(), sys.executable, os.environ.get('CUDA_HOME'), os.environ['FROM_IMAGE']]\n"
        "os.write(int(sys.argv[-1]), json.dumps([*seen, os.getuid()]).encode() + b'\\n')\n"
    )
    return path


def test_a_worker_runs_inside_the_image(image_base: BaseEnvironment, program: Path) -> None:
    environ = {**os.environ, "CUDA_HOME": "/usr/local/cuda-of-the-machine"}
    launch = WorkerLaunch("none", image_base.python, (), environ, isolation=ISOLATION, main=program)
    with hostile_directory("hub-tests-test.") as home:
        worker = WorkerProcess.start(launch, home, Exchange(home / "exchange", ISOLATION))
        try:
            answer = json.loads(worker.read_response(60))
        finally:
            worker.kill()
    assert answer == ["the image", PYTHON, None, "yes", 65533]


def test_without_a_sandbox_nothing_enters_an_image(image_base: BaseEnvironment, checkout: Path, tmp_path: Path) -> None:
    bare = Isolation(None, "switched off by --isolation none")
    with pytest.raises(RequestError, match="entered by a sandbox, and there is none: switched off"):
        build_overlay(image_base.python, image_base.manifest.description, checkout, tmp_path / "overlay", bare)


def test_what_it_compiles_is_known_by_the_image(image_base: BaseEnvironment) -> None:
    before = hash_packages(image_base.python)
    record = image_base.path / "umoci.json"
    content = record.read_bytes()
    record.chmod(0o644)
    record.write_bytes(content.replace(b"sha256:", b"sha256:0"))
    assert hash_packages(image_base.python) != before
    record.write_bytes(content)
    record.chmod(0o444)


def test_what_is_no_image_is_infrastructure_and_leaves_nothing(tmp_path: Path, image_base: BaseEnvironment) -> None:
    description = replace(image_base.manifest.description, image=f"oci:{tmp_path}/nothing:tag")
    with pytest.raises(InfrastructureError, match=r'skopeo inspect: "Error parsing image name .*no such file'):
        build_base(tmp_path / "root", description, ImageInstaller(os.environ))
    assert [path.name for path in (tmp_path / "root").iterdir() if path.is_dir()] == []


def test_an_interpreter_that_the_image_lacks_is_named(tmp_path: Path, image_base: BaseEnvironment) -> None:
    description = replace(image_base.manifest.description, python="/usr/bin/python9")
    with pytest.raises(RequestError, match="has no interpreter /usr/bin/python9: name it as `python`"):
        build_base(tmp_path / "root", description, ImageInstaller(os.environ))
    assert [path.name for path in (tmp_path / "root").iterdir() if path.is_dir()] == []


def test_an_image_has_no_wheels_and_no_newer_versions(image_base: BaseEnvironment, tmp_path: Path) -> None:
    assert keep_wheels(image_base, tmp_path / "wheels", {}, lambda _: None) == ()
    description = image_base.manifest.description
    with pytest.raises(RequestError, match="no newer versions"):
        resolve_newest(description, choose_installer(description, {}))


def test_the_missing_programs_are_named_first(tmp_path: Path) -> None:
    description = EnvironmentDescription(name="image", python="/usr/bin/python3", image="oci:/nowhere:tag")
    told: list[str] = []
    with pytest.raises(InfrastructureError, match="lacks skopeo, umoci"):
        check_prerequisites(description, (tmp_path,), {"PATH": str(tmp_path)}, told.append)
    assert told == ["missing: skopeo: apt install skopeo", "missing: umoci: apt install umoci"]
    assert read_image_digest(tmp_path) == ""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('python = "/usr/bin/python3"\nimage = "ubuntu:24.04"', "image 'ubuntu:24.04': expected TRANSPORT:NAME"),
        ('python = "/usr/bin/python3"\nimage = "oci:--help"', "image 'oci:--help': expected"),
        ('python = ">=3.12"\nimage = "oci:/a:b"', "python '>=3.12': expected its path in the image"),
        ('python = "/a"\nimage = "oci:/a:b"\nrequirements = ["torch"]', "it brings its own packages"),
        ('python = ">=3.12"', "requirements: expected the packages of the environment, or an `image`"),
    ],
)
def test_a_wrong_description_is_named(tmp_path: Path, lines: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(lines)
    with pytest.raises(RequestError, match=said):
        load_description(str(file))
