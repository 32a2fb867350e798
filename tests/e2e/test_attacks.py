"""Pull requests with a broken converter that attack their own verdict, through the real workflow engine.

One run of the workflows holds many attacks: the worker of each test job attacks in another way, and each job's result
is judged for itself. What fills the disk has a run of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from ci.subjects.sandbox import detect_isolation
from tests.attacks.scene import find_failures, list_leftovers, list_processes
from tests.ci.environments.conftest import base, index_environ
from tests.e2e.attack_cases import BUILD_ATTEMPTS, FILES, IN_JOBS, ON_A_SMALL_DISK
from tests.e2e.attack_scene import BuildAttacks, Engine, WorkerAttacks, foreign, install_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.environments.base import BaseEnvironment
    from tests.attacks.cases import Attack
    from tests.e2e.attack_scene import Attacked
    from tests.e2e.conftest import Repositories
    from tests.e2e.contract import Contract
    from tests.standin.server import HubServer

__all__ = ["base", "index_environ"]
SITECUSTOMIZE = "ATTACK sitecustomize of the checkout"
ISOLATION = detect_isolation()
pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("engine-attacks"),
    pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}"),
]


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory, contract: Contract, hub_server: HubServer, repositories: Repositories
) -> Engine:
    """The workflow engine, and an environment with the service, installed once."""
    path = tmp_path_factory.mktemp("judge") / "environment"
    install_service(path, repositories)
    return Engine(path, contract, hub_server, repositories)


@pytest.fixture(scope="module")
def in_jobs(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Attacked:
    """The run with one attack a test job."""
    return engine.run(tmp_path_factory.mktemp("attacks") / "machine", WorkerAttacks(IN_JOBS))


@pytest.fixture(scope="module")
def on_a_small_disk(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Attacked]:
    """The run of attacks on the disk, which all jobs share."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    root = tmp_path_factory.mktemp("small-disk") / "machine"
    disk = root / "temporary"
    disk.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=1536m,mode=1777", "tmpfs", str(disk)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        yield engine.run(root, WorkerAttacks(ON_A_SMALL_DISK), environment={"TMPDIR": str(disk)})
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def by_build(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base: BaseEnvironment) -> Attacked:
    """The run of a subject whose build backend attacks."""
    return engine.run(tmp_path_factory.mktemp("build") / "machine", BuildAttacks(base))


def check_attack(attacked: Attacked, name: str, attack: Attack) -> None:
    """The attack was made, had no effect, and its entry failed with a class."""
    said = attacked.read_log(name)
    assert f"ATTACK is {name}" in said, attacked.outcome.log
    started = {f"ATTACK is {name}", "ATTACK begins", SITECUSTOMIZE}
    assert [line for line in said if line not in started], "the attack was not made"
    succeeded = [line for line in said if "done:" in line or "leaked" in line]
    assert not [line for line in succeeded if not (attack.allowed and re.search(f"done: {attack.allowed}", line))]
    entry = attacked.read_entry(name)
    assert entry["verdict"] == "failed"
    failures = find_failures({"entries": [entry]})
    failed = failures.get("test_conversion") or failures.get("test_forward_equivalence")
    assert failed in attack.classes, (failures, attacked.outcome.log)
    assert attacked.outcome.jobs[f"test {name}"] == "failure"
    assert list_processes(f"{attacked.marker}-{name}") == []
    assert list_leftovers(f"{attacked.marker}-{name}") == []


def check_run(attacked: Attacked, count: int) -> None:
    """The pull request is red everywhere, and the machine is as before."""
    assert attacked.outcome.jobs["report"] == attacked.outcome.jobs["conclude"] == "failure", attacked.outcome.log
    verdict = attacked.comment.splitlines()[1]
    assert verdict.startswith(f"## ❌ Failed: {count} of {count} model"), attacked.outcome.log
    assert attacked.statuses == ("pending", "failure")
    assert attacked.report["verdict"] == "failed"
    assert attacked.changed == ()
    assert not foreign(attacked.root).exists(), foreign(attacked.root).read_text()
    assert "FOREIGN CODE" not in attacked.outcome.log
    obeyed = re.findall(r"[⚙❗] +::(?:set-env|add-path|error)::.*", attacked.outcome.log)
    assert any("hub-tests/path" in line for line in obeyed), "how act writes down what it obeys"
    assert not [line for line in obeyed if re.search("evil|forged", line)]


@pytest.mark.parametrize("name", IN_JOBS)
def test_an_attack_from_a_test_job_is_red(name: str, in_jobs: Attacked) -> None:
    check_attack(in_jobs, name, IN_JOBS[name])


def test_no_attack_turns_its_commit_green(in_jobs: Attacked) -> None:
    check_run(in_jobs, len(IN_JOBS))


def test_files_of_the_checkout_reach_the_worker_only(in_jobs: Attacked) -> None:
    """The worker does run the checkout's sitecustomize.py; nobody else runs any of the files."""
    for name in IN_JOBS:
        assert SITECUSTOMIZE in in_jobs.read_log(name)
    assert all((in_jobs.root / "work" / file).is_file() for file in FILES)
    assert not foreign(in_jobs.root).exists()


@pytest.mark.parametrize("name", ON_A_SMALL_DISK)
def test_an_attack_on_the_disk_is_red(name: str, on_a_small_disk: Attacked) -> None:
    check_attack(on_a_small_disk, name, ON_A_SMALL_DISK[name])


def test_no_attack_on_the_disk_turns_its_commit_green(on_a_small_disk: Attacked) -> None:
    check_run(on_a_small_disk, len(ON_A_SMALL_DISK))


@pytest.mark.parametrize("name", BUILD_ATTEMPTS)
def test_what_a_build_backend_tries_is_refused(name: str, by_build: Attacked) -> None:
    said = by_build.read_log("build", "build.log")
    tried = [line for line in said if f"{name} |" in line]
    assert tried, (said, by_build.outcome.log)
    assert not [line for line in tried if "refused" not in line]


def test_a_build_that_attacks_is_red_and_changes_nothing(by_build: Attacked) -> None:
    check_run(by_build, 1)
    entry = by_build.read_entry("build")
    failures = find_failures({"entries": [entry]})
    assert failures["test_conversion"] == "crash", failures
    assert "the subject's build failed" in by_build.outcome.log
    assert list_processes(by_build.marker) == []
    assert list_leftovers(by_build.marker) == []
