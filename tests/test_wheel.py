"""The wheel: what is in it, and that it works in an environment without this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.release import check_files
from tests.standin.models import repository
from tests.standin.recipes import TINY_REGISTRY
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.xdist_group("wheel")


def build(kind: str, source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release has it: built from the source archive, as `make dist` does."""
    target, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    build("sdist", ROOT, target)
    (archive,) = target.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(source, filter="data")
    build("wheel", source / archive.name.removesuffix(".tar.gz"), target)
    built, _ = check_files(f"v{version()}", target)
    return built


def version() -> str:
    declared: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return declared


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel alone, which sees the dependencies of this one.

    A directory that a .pth file names is searched, but its own .pth files are not read: an editable installation of
    this checkout stays out of sight.
    """
    home = tmp_path_factory.mktemp("clean") / "env"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    dependencies = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True, capture_output=True)
    return home / "bin"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("stand-in/llama", repository("stand-in/llama"))
        yield server


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_the_package_and_nothing_of_the_benchmarks(wheel: Path) -> None:
    names = members(wheel)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ci", "hub_runner", "hub_tests"}
    assert {"ci/models.toml", "ci/py.typed", "ci/_suite/conftest.py", "ci/_suite/test_hub_integration.py"} <= names
    assert not [name for name in names if "mutation" in name or "mutant" in name or "benchmark" in name]


def test_every_module_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ci").rglob("*.py") if "__pycache__" not in path.parts}
    assert modules <= members(wheel)


def test_no_module_of_the_package_imports_benchmarks_or_tests() -> None:
    for path in [*ROOT.glob("ci/**/*.py"), *ROOT.glob("runner-setup/hub_runner/**/*.py")]:
        words = [line.split()[1] for line in path.read_text(encoding="utf-8").splitlines() if is_import(line)]
        assert not [word for word in words if word.split(".")[0] in ("benchmarks", "tests")], path


def is_import(line: str) -> bool:
    return line.lstrip().startswith(("import ", "from "))


def run(scripts: Path, cwd: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(scripts / words[0]), *words[1:]]
    return subprocess.run(command, cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, check=False)


def test_the_command_line_works_without_the_checkout(scripts: Path, tmp_path: Path) -> None:
    where = run(
        scripts, tmp_path, "python", "-c", "import ci, hub_runner; print(ci.__file__); print(hub_runner.__file__)"
    )
    assert all(line.startswith(str(scripts.parent)) for line in where.stdout.splitlines()), where.stdout
    assert run(scripts, tmp_path, "python", "-c", "import benchmarks").returncode == 1
    for words in (("hub-tests", "--help"), ("hub-tests", "models"), ("hub-runner", "--help")):
        done = run(scripts, tmp_path, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert "smollm2" in run(scripts, tmp_path, "hub-tests", "models", COLUMNS="200").stdout


@pytest.mark.long
def test_a_model_is_tested_without_the_checkout(scripts: Path, hub: HubServer, tmp_path: Path) -> None:
    registry, out = tmp_path / "models.toml", tmp_path / "out"
    registry.write_text(TINY_REGISTRY)
    words = ("hub-tests", "run", "tiny", "--registry", str(registry), "--report", str(out))
    store = str(tmp_path / "store")
    environ = {"HF_ENDPOINT": hub.endpoint, "HUB_TESTS_CACHE": store, "OMP_NUM_THREADS": "1"}
    done = run(scripts, tmp_path, *words, "--subject", "reference", "--device", "cpu", **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_bytes())
    assert report["totals"]["failed"] == 0
    assert report["totals"]["passed"] == report["totals"]["tests"] >= 7
