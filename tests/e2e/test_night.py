"""The clock and a person start the workflow: no comment; after a night, one issue and one history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.ci.report import samples
from tests.e2e import events

if TYPE_CHECKING:
    from tests.e2e.conftest import Scene

WORKFLOW = "hub-tests.yml"
DATA = "hub-tests-data"


def test_a_bad_night_opens_an_issue_and_a_good_one_closes_it(scene: Scene) -> None:
    models = ("smollm2", "mistral", "mixtral", "qwen2-05b")
    for name in models:
        scene.prepare(name)
    bad = scene.suite / "smollm2"
    good = (bad / "junit.xml").read_bytes()
    (bad / "junit.xml").write_bytes(
        samples.junit(
            samples.plan_of("smollm2", subject="reference"),
            {"test_forward_equivalence[smollm2]": samples.mismatch()},
        )
    )
    (bad / "exit").write_text("1")
    outcome = scene.host.run(WORKFLOW, "schedule", events.schedule())
    ran = {"plan", "watch-fetch", "fetch", "watch", "report", "night", "conclude", *(f"test {name}" for name in models)}
    assert outcome.jobs.keys() == ran, outcome.log
    assert {name for name, result in outcome.jobs.items() if result == "failure"} == {
        "test smollm2",
        "report",
        "conclude",
    }, outcome.log
    (issue,) = scene.state.issues
    assert issue["state"] == "open"
    assert "`smollm2` | 1 |" in issue["body"]
    (month,) = scene.state.files(DATA).values()
    assert len(month.splitlines()) == len(models)
    assert [s["state"] for s in scene.state.statuses] == ["failure"]
    assert scene.state.comments == []
    assert (scene.host.root / "store/main/checkpoints").is_dir()

    (bad / "junit.xml").write_bytes(good)
    (bad / "exit").write_text("0")
    scene.host.run_id += 1
    for artifact in (scene.host.root / "artifacts").iterdir():
        artifact.rename(scene.host.root / f"old-{artifact.name}")
    outcome = scene.host.run(WORKFLOW, "schedule", events.schedule())
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert [i["state"] for i in scene.state.issues] == ["closed"]
    (month,) = scene.state.files(DATA).values()
    assert len(month.splitlines()) == 2 * len(models)


def test_somebody_starts_it_by_hand_for_a_branch(scene: Scene) -> None:
    scene.prepare("smollm2")
    scene.state.commits[scene.state.repository, "feature"] = scene.commits.head
    payload = events.dispatch(models="smollm2", layers="2", **{"subject-ref": "feature", "pull-request": "0"})
    outcome = scene.host.run(WORKFLOW, "workflow_dispatch", payload)
    assert outcome.jobs.keys() == {"plan", "watch-fetch", "fetch", "watch", "test smollm2", "report", "conclude"}, (
        outcome.log
    )
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert [(s["sha"], s["state"]) for s in scene.state.statuses] == [(scene.commits.head, "success")]
    assert scene.state.comments == scene.state.issues == []
