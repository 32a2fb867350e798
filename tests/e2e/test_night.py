"""The clock and a person start the workflow: no comment; after a night, one issue and one history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.ci.report import samples
from tests.e2e import events

if TYPE_CHECKING:
    from tests.e2e.conftest import Scene

WORKFLOW = "hub-tests.yml"
DATA = "hub-tests-data"


def read_month(scene: Scene) -> str:
    """Read the only month of the history; the pages of the dashboard lie beside it."""
    (month,) = (text for path, text in scene.state.files(DATA).items() if path.endswith(".jsonl"))
    return month


def test_a_bad_night_opens_an_issue_and_a_good_one_closes_it(scene: Scene) -> None:
    models = ("smollm2", "mistral", "mixtral", "qwen2-05b")
    for name in models:
        scene.prepare(name, deep=True)
    bad = scene.suite / "smollm2"
    good = (bad / "junit.xml").read_bytes()
    (bad / "junit.xml").write_bytes(
        samples.junit(
            samples.plan_of("smollm2", subject="reference", deep=True),
            {"test_forward_equivalence[smollm2]": samples.mismatch()},
        )
    )
    (bad / "exit").write_text("1")
    scene.host.variables["HUB_TESTS_COMPILE_CACHE"] = "/srv/compiled"
    outcome = scene.host.run(WORKFLOW, "schedule", events.schedule())
    ran = {"plan", "watch-fetch", "fetch", "watch", "report", "night", "conclude", *(f"test {name}" for name in models)}
    assert outcome.jobs.keys() == ran, outcome.log
    assert {name for name, result in outcome.jobs.items() if result == "failure"} == {
        "test smollm2",
        "report",
        "conclude",
    }, outcome.log
    filled = (scene.host.root / "compile-cache.txt").read_text().splitlines()
    assert sorted(filled) == sorted(f"{name} fills /srv/compiled" for name in models)
    (issue,) = scene.state.issues
    assert issue["state"] == "open"
    assert "`smollm2` | 1 |" in issue["body"]
    month = read_month(scene)
    assert len(month.splitlines()) == len(models)
    assert [s["state"] for s in scene.state.statuses] == ["pending", "failure"]
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
    month = read_month(scene)
    assert len(month.splitlines()) == 2 * len(models)


def test_somebody_starts_it_by_hand_for_a_branch(scene: Scene) -> None:
    scene.prepare("smollm2")
    scene.state.commits[scene.state.repository, "feature"] = scene.commits.head
    scene.state.refs["heads/feature"] = scene.commits.head
    scene.host.variables["HUB_TESTS_COMPILE_CACHE"] = "/srv/compiled"
    payload = events.dispatch(models="smollm2", layers="2", **{"subject-ref": "feature", "pull-request": "0"})
    outcome = scene.host.run(WORKFLOW, "workflow_dispatch", payload)
    assert outcome.jobs.keys() == {"plan", "watch-fetch", "fetch", "watch", "test smollm2", "report", "conclude"}, (
        outcome.log
    )
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert [(s["sha"], s["state"]) for s in scene.state.statuses] == [
        (scene.commits.head, "pending"),
        (scene.commits.head, "success"),
    ]
    assert scene.state.comments == scene.state.issues == []
    assert (scene.host.root / "compile-cache.txt").read_text() == "smollm2 reads /srv/compiled\n"


def test_a_forks_commit_by_hand_starts_nothing(scene: Scene) -> None:
    """It is no branch's head here, though GitHub shows it: nothing of it is fetched or run."""
    scene.prepare("smollm2")
    payload = events.dispatch(models="smollm2", **{"subject-ref": scene.commits.broken, "pull-request": "0"})
    outcome = scene.host.run(WORKFLOW, "workflow_dispatch", payload)
    assert outcome.jobs == {"plan": "failure", "report": "failure", "conclude": "failure"}, outcome.log
    assert "for a pull request, give its number" in outcome.log
    assert scene.state.statuses == []


QUEUE = """on: {merge_group: {types: [checks_requested]}}
jobs:
  hub-tests:
    uses: ./.github/workflows/hub-tests.yml
    with: {subject: reference, device: cpu, required: smollm2, store-path: STORE}
    secrets: {HF_TOKEN: "${{ secrets.HF_TOKEN }}"}
"""


def test_the_merge_queue_asks_for_its_own_commit(scene: Scene) -> None:
    """What the policy requires is tested: nobody named a model."""
    scene.prepare("smollm2")
    scene.host.callers["caller.yml"] = QUEUE.replace("STORE", str(scene.host.root / "store"))
    outcome = scene.host.run("caller.yml", "merge_group", events.merge_group(scene.commits.head))
    assert outcome.jobs.keys() == {"plan", "watch-fetch", "fetch", "watch", "test smollm2", "report", "conclude"}, (
        outcome.log
    )
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert [(s["sha"], s["state"], s["description"]) for s in scene.state.statuses] == [
        (scene.commits.head, "pending", "running: smollm2"),
        (scene.commits.head, "success", "1 model passed: smollm2"),
    ]
    assert scene.state.comments == []


BY_CACHE = """on: {merge_group: {types: [checks_requested]}, schedule: [{cron: "43 2 * * *"}]}
jobs:
  hub-tests:
    uses: ./.github/workflows/hub-tests.yml
    with: {subject: reference, device: cpu, models: smollm2, required: smollm2, store: cache}
    secrets: {HF_TOKEN: "${{ secrets.HF_TOKEN }}"}
"""


def test_what_a_night_compiles_travels_by_cache_and_a_merge_group_adds_nothing(scene: Scene) -> None:
    """Where checkpoints travel by cache, compiled code does too; the job that runs the subject only reads it."""
    scene.prepare("smollm2")
    scene.host.callers["caller.yml"] = BY_CACHE
    outcome = scene.host.run("caller.yml", "schedule", events.schedule())
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    (saved,) = (scene.host.root / "caches").glob("hub-tests-compiled-*")
    assert [path.name for path in saved.iterdir()] == ["smollm2.tar"]
    assert [job for job in outcome.jobs if job.startswith("keep")]

    scene.host.run_id += 1
    for artifact in (scene.host.root / "artifacts").iterdir():
        artifact.rename(scene.host.root / f"old-{artifact.name}")
    outcome = scene.host.run("caller.yml", "merge_group", events.merge_group(scene.commits.head))
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert not [job for job in outcome.jobs if job.startswith("keep")]
    assert not list((scene.host.root / "artifacts").glob("compiled-of-*"))
    assert (scene.host.root / "compile-cache.txt").read_text().splitlines() == [
        "smollm2 fills hub-compiled",
        "smollm2 reads hub-compiled and finds smollm2.tar",
    ]
