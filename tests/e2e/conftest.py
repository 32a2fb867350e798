"""Machines for the workflows: a stand-in for GitHub behind Prism, one for the Hub, repositories, and interpreters."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.models import load_models
from ci.plan import RunRequest, make_plan
from tests.ci.report import samples
from tests.e2e.act import HUB_TOKEN, ROOT, WorkflowHost, git
from tests.e2e.contract import Contract, guarded
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.consumers.registry import ConsumerName
    from tests.e2e.fake_github import State

SERVICE = ("ci", "tests/integration", ".github", "pyproject.toml", "README.md", "LICENSE", "requirements")
LOCK = "requirements/base.lock"
MODELS = {
    "HuggingFaceTB/SmolLM2-135M": "stand-in/llama",
    "mistralai/Mistral-7B-v0.1": "mistralai/Mistral-7B-v0.1",
    "mistralai/Mixtral-8x7B-v0.1": "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen2.5-0.5B": "Qwen/Qwen2.5-0.5B",
}
REGISTRY = "hub-models.toml"
ENVIRONMENT = "hub-environment.toml"
OUR_ENVIRONMENT = 'name = "ours"\npython = ">=3.11"\nrequirements = ["numpy"]\n'
SUBJECT = "hub-subject.toml"
OUR_SUBJECT = """
adapter = "trainer.hub:Subject"
name = "trainer"
package = "trainer"
formats = ["llama"]
exports = false
gradients = false
"""
"""An adapter that no job but the sandboxed one may load, as the default branch describes it."""
OURS = """[ours]
model_id = "HuggingFaceTB/SmolLM2-135M"
checkpoint_format = "llama"
num_layers_to_keep = 2
groups = ["default"]
"""
THEIRS = OURS.replace("HuggingFaceTB/SmolLM2-135M", "mallory/model") + OURS.replace("[ours]", "[theirs]")
"""A caller's own registry, on the default branch and as a pull request would like to have it."""

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1"}
"""What pip and torch read where checkouts are really installed."""

SHIM = """#!/bin/sh
if [ "$1" = -m ] && [ "$2" = venv ]; then exec cp -R "$E2E_ROOT/venv" "$3"; fi
exec "$E2E_PYTHON" "$@"
"""
QUICK_PYTHON = """#!/bin/sh
if [ "$1" = -m ] && [ "$2" = pip ]; then exit 0; fi
exec "$E2E_PYTHON" "$@"
"""


@dataclass(frozen=True)
class Repositories:
    """Bare repositories as `owner/name.git` below `root`, and the framework's commits."""

    root: Path
    main: str
    head: str
    broken: str


@dataclass
class Scene:
    """Everything a test of the workflows needs."""

    host: WorkflowHost
    contract: Contract
    commits: Repositories
    suite: Path = field(init=False)

    def __post_init__(self) -> None:
        self.suite = self.host.root / "suite"

    @property
    def registry(self) -> Path:
        """The caller's own registry, as it is on the default branch."""
        path = self.host.root / REGISTRY
        path.write_text(OURS)
        return path

    @property
    def state(self) -> State:
        return self.host.state

    def prepare(
        self,
        entry: str,
        faults: Mapping[str, samples.Fault | None] | None = None,
        *,
        status: int = 0,
        deep: bool = False,
        consumer: ConsumerName | None = None,
        subject: str = "reference",
    ) -> Path:
        """What the suite leaves for `entry`, and how it ends."""
        known = load_models() | load_models(self.registry)
        request = RunRequest("issue_comment", (entry,), subject=subject, deep=deep, consumer=consumer)
        plan = make_plan(request, known)
        folder = self.suite / entry
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "junit.xml").write_bytes(samples.junit(plan, faults))
        (folder / "exit").write_text(str(status))
        (folder / "deep").unlink(missing_ok=True)
        if deep:
            (folder / "deep").touch()
        (folder / "consumer").write_text(consumer or "")
        return folder


@pytest.fixture(scope="session")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    """The stand-in for GitHub, behind Prism where npm's packages are installed. Fails on any breach of contract."""
    with guarded(tmp_path_factory.mktemp("contract")) as found:
        yield found


@pytest.fixture
def github(contract: Contract) -> Iterator[Contract]:
    """The stand-in for GitHub with nothing in it."""
    contract.fake.reset()
    yield contract
    assert not contract.violations()


@pytest.fixture(scope="session")
def hub_server() -> Iterator[HubServer]:
    """A Hub with small models under the registry's ids."""
    from tests.standin.models import repository  # torch: only for tests that fetch

    with HubServer() as server:
        for model_id, recipe in MODELS.items():
            server.add(model_id, repository(recipe))
        server.grant(HUB_TOKEN)
        yield server


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Repositories:
    """The service's repository and the framework's: on main as it is, on a branch with a defect in the converter."""
    root = tmp_path_factory.mktemp("git")
    work = root / "work"
    for name in SERVICE:
        copy(ROOT / name, work / name)
    git(work, "init", "--quiet", "--initial-branch=main")
    (work / LOCK).write_text("# No index on this machine: what the tests have is installed already.\n")
    (work / REGISTRY).write_text(OURS)
    (work / ENVIRONMENT).write_text(OUR_ENVIRONMENT)
    (work / SUBJECT).write_text(OUR_SUBJECT)
    main = commit(work, "as it is")
    git(root, "clone", "--quiet", "--bare", str(work), "service.git")
    git(work, "checkout", "--quiet", "-b", "feature")
    (work / "README.md").write_text("A change of words.\n")
    (work / REGISTRY).write_text(THEIRS)
    (work / ENVIRONMENT).write_text(OUR_ENVIRONMENT.replace("numpy", "mallorys-package"))
    (work / SUBJECT).write_text(OUR_SUBJECT + "converts = false\n")  # one test less
    head = commit(work, "change words")
    git(work, "checkout", "--quiet", "-b", "broken")
    swap_gate_and_up(work / "ci/subjects/reference/convert.py")
    broken = commit(work, "swap gate and up")
    (root / "octo-org").mkdir()
    git(root, "clone", "--quiet", "--bare", str(work), "octo-org/framework.git")
    shutil.rmtree(work)
    return Repositories(root, main, head, broken)


@pytest.fixture
def scene(github: Contract, hub_server: HubServer, repositories: Repositories, tmp_path: Path) -> Scene:
    """A machine on which `hub-tests run` gives prepared results, and a pull request of the repository's own branch."""
    root = tmp_path / "machine"
    furnish(root, repositories, real=False)
    return make_scene(root, github, hub_server, repositories)


@pytest.fixture
def real_scene(scene: Scene, tmp_path: Path) -> Scene:
    """The same, where nothing is prepared: pip installs the checkouts, and the suite runs."""
    root = tmp_path / "real"
    furnish(root, scene.commits, real=True)
    scene.host.root = root
    scene.host.environment |= OFFLINE
    return scene


def make_scene(root: Path, github: Contract, hub_server: HubServer, repositories: Repositories) -> Scene:
    """A machine below the furnished `root`, and a pull request of the repository's own branch."""
    state = github.fake.state
    state.roles |= {"alice": "maintain", "bob": "read"}
    state.pulls[7] = {"state": "open", "sha": repositories.head, "repository": state.repository}
    state.commits[state.repository, "HEAD"] = repositories.main
    return Scene(WorkflowHost(root, github.url, hub_server.endpoint, state), github, repositories)


def furnish(root: Path, repositories: Repositories, *, real: bool) -> None:
    """Repositories and interpreters below `root`; `real` ones run pip and the suite."""
    for folder in ("bin", "artifacts", "caches", "store"):
        (root / folder).mkdir(parents=True)
    (root / "git").symlink_to(repositories.root)
    executable(root / "bin/python3", SHIM)
    if not real:
        executable(root / "venv/bin/python", QUICK_PYTHON)
        stand_in = Path(__file__).with_name("hub_tests.py")
        executable(root / "venv/bin/hub-tests", f'import runpy\n\nrunpy.run_path("{stand_in}", run_name="__main__")\n')
        return
    make_interpreter(root / "venv")


def make_interpreter(path: Path) -> None:
    """An environment of its own that imports what is installed in this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    (site,) = (path / "lib").glob("python*/site-packages")
    (site / "e2e.pth").write_text(sysconfig.get_path("purelib") + "\n")


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def commit(work: Path, message: str) -> str:
    git(work, "add", ".")
    git(work, "commit", "--quiet", f"--message={message}")
    return git(work, "rev-parse", "HEAD")


def swap_gate_and_up(converter: Path) -> None:
    """The defect: the halves of the gated MLP's first layer change places."""
    text = converter.read_text(encoding="utf-8")
    swapped = text.replace("gate_proj", "\0").replace("up_proj", "gate_proj").replace("\0", "up_proj")
    assert swapped != text
    converter.write_text(swapped, encoding="utf-8")
