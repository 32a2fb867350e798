"""One run of the workflows over a pull request that attacks, with another attack in each test job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, Protocol

from ci.environments.base import BaseEnvironment
from ci.records import to_dict
from tests.attacks.cases import Attack
from tests.attacks.scene import hash_tree, insert_attack
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_subject
from tests.e2e import events
from tests.e2e.act import Outcome, git
from tests.e2e.attack_cases import BUILD_ATTEMPTS, BUILD_HEADER, FILES
from tests.e2e.conftest import OFFLINE, Repositories, executable, furnish, make_interpreter, make_scene
from tests.e2e.contract import Contract
from tests.standin.models import repository
from tests.standin.server import HubServer

ENTRY = """[{name}]
model_id = "attacked/{name}"
checkpoint_format = "llama"
num_layers_to_keep = 2
[{name}.test_params]
batch_size = 2
sequence_length = 16
"""
CALLER = """name: caller
on: issue_comment
jobs:
  hub-tests:
    uses: ./.github/workflows/hub-tests-comment.yml
    with: {{device: cpu, registry: attacks.toml, required: "*", store-path: "{store}", subject: {subject}}}
    secrets: {{HF_TOKEN: "${{{{ secrets.HF_TOKEN }}}}"}}
"""
CHOOSE = """
import glob
CHECKOUT = Path(__file__).resolve().parents[3]
CHOSEN = Path(os.readlink("/proc/self/fd/1")).name.removesuffix("-reference.log")
WHERE["checkout"], WHERE["judge"] = str(CHECKOUT), f"{CHECKOUT.parent}/service"
WHERE["report"] = f"{CHECKOUT.parent}/results"
WHERE["actions"] += [f"{CHECKOUT.parent}/{name}" for name in ("envs.txt", "paths.txt", "outputcmd.txt", "statecmd.txt")]
WHERE["marker"] += f"-{CHOSEN}"
say("is", CHOSEN)
exec(WHERE["codes"][CHOSEN], globals())
"""
"""The log's name says which entry is asked for, as a checkpoint's path or an input's shape would."""

SHIM = """#!/bin/sh
if [ "$1" = -m ] && [ "$2" = venv ]; then
    cp -R "$E2E_ROOT/judge" "$3" && exec sed -i "1s|.*|#!$3/bin/python3|" "$3/bin/hub-tests"
fi
exec "$E2E_PYTHON" "$@"
"""
"""Each job gets a copy of an environment in which pip has installed the service once."""

INSTALLED = """#!/bin/sh
if [ "$1" = -m ] && [ "$2" = pip ]; then exit 0; fi
exec "${0%/*}/python3" "$@"
"""


@dataclass(frozen=True)
class Attacked:
    """What a run left: `report` is the report job's, by `changed` what the attacks were not to change."""

    root: Path
    marker: str
    outcome: Outcome
    comment: str
    statuses: tuple[str, ...]
    report: dict[str, Any]
    changed: tuple[str, ...]

    def read_entry(self, name: str) -> dict[str, Any]:
        """The report's record of one entry."""
        (entry,) = [entry for entry in self.report["entries"] if entry["name"] == name]
        return dict(entry)

    def read_log(self, name: str, log: str = "") -> list[str]:
        """The lines that the attack on one entry printed."""
        path = self.root / "artifacts" / f"hub-tests-{name}.1" / "logs" / (log or f"{name}-reference.log")
        with path.open("rb") as file:
            text = file.read(2**24).decode(errors="replace")
        return [line for line in text.splitlines() if "ATTACK" in line]


def install_service(path: Path, repositories: Repositories) -> None:
    """Install the service into an environment by pip, as the setup action does in each job."""
    make_interpreter(path)
    checkout = path.with_name(f"{path.name}-checkout")
    git(path.parent, "clone", "--quiet", str(repositories.root / "service.git"), str(checkout))
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run([str(path / "bin/python"), *words, str(checkout)], env={**os.environ, **OFFLINE}, check=True)
    for name in ("python", "python3"):
        (path / "bin" / name).unlink()
    (path / "bin/python3").symlink_to(Path(sys.executable).resolve())
    executable(path / "bin/python", INSTALLED)


@dataclass(frozen=True)
class Engine:
    """What every run of the workflows shares: an environment with the service, GitHub, the Hub, and repositories."""

    judge: Path
    contract: Contract
    hub_server: HubServer
    repositories: Repositories

    def run(self, root: Path, pull_request: PullRequest, environment: Mapping[str, str] | None = None) -> Attacked:
        """Run the workflows on a machine below `root` over a pull request that attacks."""
        self.contract.fake.reset()
        root.mkdir(parents=True, exist_ok=True)
        own = Repositories(root / "repositories", *astuple(self.repositories)[1:])
        shutil.copytree(self.repositories.root, own.root, symlinks=True)
        furnish(root, own, real=True)
        shutil.copytree(self.judge, root / "judge", symlinks=True)
        executable(root / "bin/python3", SHIM)
        for name in pull_request.entries:
            self.hub_server.add(f"attacked/{name}", repository("stand-in/llama"))
        scene = make_scene(root, self.contract, self.hub_server, own)
        scene.host.environment |= {**OFFLINE, **make_caches(root), **(environment or {})}
        scene.host.variables |= pull_request.variables
        scene.host.callers["caller.yml"] = CALLER.format(store=root / "store", subject=pull_request.subject)
        scene.host.limit = 3600.0
        marker = f"hub-attack-{os.getpid()}-{root.parent.name}"
        scene.state.pulls[7]["sha"] = push(own, root, pull_request, marker)
        before = hash_tree(*protected(root))
        words = f"/run-hub-tests {' '.join(pull_request.entries)}"
        outcome = scene.host.run("caller.yml", "issue_comment", events.comment(words))
        after = hash_tree(*protected(root))
        changed = tuple(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        written = root / "artifacts/report-of-hub-tests/report.json"
        assert written.is_file(), outcome.log
        assert not self.contract.violations()
        statuses = tuple(str(status["state"]) for status in scene.state.statuses)
        report = json.loads(written.read_bytes())
        return Attacked(root, marker, outcome, scene.state.comment("board"), statuses, report, changed)


class PullRequest(Protocol):
    """What attacks: entries, subject, variables, files of the default branch beside, and what is committed."""

    @property
    def entries(self) -> tuple[str, ...]: ...

    @property
    def subject(self) -> str: ...

    @property
    def variables(self) -> Mapping[str, str]: ...

    @property
    def default_branch(self) -> Mapping[str, str]: ...

    def write(self, work: Path, root: Path, marker: str) -> None:
        """Change the checkout of the broken converter at `work`."""


@dataclass(frozen=True)
class WorkerAttacks:
    """A pull request whose worker attacks each entry in another way."""

    attacks: Mapping[str, Attack]
    subject: str = "reference"

    @property
    def entries(self) -> tuple[str, ...]:
        return tuple(self.attacks)

    @property
    def variables(self) -> Mapping[str, str]:
        return {}

    @property
    def default_branch(self) -> Mapping[str, str]:
        return {}

    def write(self, work: Path, root: Path, marker: str) -> None:
        """Add the attacks to the reference subject, and files to the checkout."""
        for name, text in FILES.items():
            place = str(foreign(root))
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text.replace("{foreign!r}", repr(place)).replace("{foreign}", place))
        (work / "git").chmod(0o755)
        insert_attack(work, CHOOSE, where(root, self.attacks, marker))


@dataclass(frozen=True)
class BuildAttacks:
    """A pull request whose build backend attacks, for a subject with a base environment."""

    base: BaseEnvironment
    entries: tuple[str, ...] = ("build",)
    subject: str = "fast_llm"

    @property
    def default_branch(self) -> Mapping[str, str]:
        """The environment's description, which no pull request can change."""
        fields = {key: value for key, value in to_dict(DESCRIPTION).items() if value}
        return {"standin.toml": "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())}

    @property
    def variables(self) -> Mapping[str, str]:
        return {
            "HUB_TESTS_SUBJECT_PYTHON": "",
            "HUB_TESTS_ENVIRONMENT": "standin.toml",
            "HUB_TESTS_ENVIRONMENTS": str(self.base.path.parent),
        }

    def write(self, work: Path, root: Path, marker: str) -> None:
        """Make the checkout that of a subject with a compiled extension, whose setup.py attacks and then fails."""
        names = {
            "MARKER": marker,
            "PATHS": [str(root / "secret"), str(root / "judge/pyvenv.cfg"), str(self.base.python)],
            "STORES": [str(root / "store"), str(root / "compiled"), str(self.base.path)],
            "REPORTS": [str(root / "artifacts"), str(root)],
        }
        known = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        tried = "".join(BUILD_ATTEMPTS.values())
        write_subject(work)
        text = f"{BUILD_HEADER}{known}{tried}raise SystemExit('failed on purpose')\n"
        (work / "setup.py").write_text(text)
        (work / "pyproject.toml").unlink()


def push(repositories: Repositories, root: Path, pull_request: PullRequest, marker: str) -> str:
    """Put the entries into the default branch's registry and the attack onto the broken converter; its commit."""
    work = root / "work"
    git(root, "clone", "--quiet", str(repositories.root / "octo-org/framework.git"), str(work))
    git(work, "checkout", "--quiet", "main")
    (work / "attacks.toml").write_text("".join(ENTRY.format(name=name) for name in pull_request.entries))
    for name, text in pull_request.default_branch.items():
        (work / name).write_text(text)
    git(work, "add", ".")
    git(work, "commit", "--quiet", "--message=registry")
    git(work, "checkout", "--quiet", "-b", "attack", repositories.broken)
    pull_request.write(work, root, marker)
    git(work, "add", "--force", "--all", ".")
    git(work, "commit", "--quiet", "--message=attack")
    git(work, "push", "--quiet", "origin", "main", "attack")
    return git(work, "rev-parse", "HEAD")


def where(root: Path, attacks: Mapping[str, Attack], marker: str) -> dict[str, Any]:
    """Name the paths that an attacker may have guessed, and the code for each entry."""
    sites = [path for path in sys.path if path.endswith("site-packages")]
    return {
        "root": str(root),
        "store": str(root / "store"),
        "secret": str(root / "secret"),
        "caches": str(root / "compiled"),
        "home": str(root / "home"),
        "temporary": str(root),
        "actions": [str(root / "home" / name) for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT")],
        "sites": [*sites, *map(str, (root / "judge/lib").glob("python*/site-packages"))],
        "marker": marker,
        "codes": {name: dedent(attack.code) for name, attack in attacks.items()},
    }


def make_caches(root: Path) -> dict[str, str]:
    """Make what an earlier job compiled, and a secret; the variables that name the caches."""
    (root / "compiled").mkdir()
    (root / "compiled/kernel.bin").write_text("compiled earlier")
    (root / "secret").write_text("a token that nobody under test may read")
    return {"TORCHINDUCTOR_CACHE_DIR": str(root / "compiled"), "TRITON_CACHE_DIR": str(root / "compiled")}


def protected(root: Path) -> tuple[Path, ...]:
    """What no attack may change."""
    installed = Path(sys.executable).parent
    return (*(root / name for name in ("judge", "venv", "bin", "compiled", "secret", "repositories")), installed)


def foreign(root: Path) -> Path:
    """The file that code of the pull request writes where it runs outside of the sandbox."""
    return root / "foreign"
