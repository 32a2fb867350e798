"""A comment on a pull request, from the recorded webhook to what stands on the pull request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from tests.ci.report import samples
from tests.e2e import events
from tests.e2e.fake_github import BOT
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from tests.e2e.conftest import Scene
    from tests.standin.server import HubServer

COMMENT = "hub-tests-comment.yml"
COMMENT_ID = 3300000011
GATE_ONLY = {"gate": "success", "conclude": "success"}


def say(scene: Scene, body: str, **who: str) -> Any:
    """Run the workflow on a comment."""
    return scene.host.run(COMMENT, "issue_comment", events.comment(body, **who))


def reactions(scene: Scene) -> list[str]:
    return [content for comment, who, content in scene.state.reactions if (comment, who) == (COMMENT_ID, BOT)]


def test_a_writer_starts_a_run_and_reads_its_result(scene: Scene) -> None:
    scene.prepare("smollm2")
    scene.host.variables["HUB_TESTS_COMPILE_CACHE"] = "/srv/compiled"
    outcome = say(scene, "/run-hub-tests smollm2\nthanks!")
    jobs = ("gate", "start", "plan", "watch-fetch", "fetch", "watch", "test smollm2", "report")
    assert outcome.jobs.keys() == {*jobs, "conclude"}, outcome.log
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert reactions(scene) == ["eyes", "rocket"]
    comment = scene.state.comment("board")
    assert "Passed: 1 model" in comment
    assert scene.commits.head[:12] in comment
    state = read_state(comment)
    assert state.last is not None
    assert (state.runs, state.last.failed, state.last.sha) == ((), (), scene.commits.head)
    assert [(s["sha"], s["state"]) for s in scene.state.statuses] == [
        (scene.commits.head, "pending"),
        (scene.commits.head, "success"),
    ]
    assert (scene.host.root / "store/pull-requests/checkpoints").is_dir()
    assert not (scene.host.root / "store/main").exists()
    assert (scene.host.root / "compile-cache.txt").read_text() == "smollm2 reads /srv/compiled\n"


def test_a_comment_without_a_model_leaves_out_known_refusals_and_says_so(scene: Scene) -> None:
    """Today's Fast-LLM refuses two of the four default models: the commit is green by the others, and names them."""
    scene.host.variables["HUB_TESTS_SUBJECT"] = "fast_llm"
    for name in ("mistral", "qwen2-05b"):
        scene.prepare(name, subject="fast_llm")
    outcome = say(scene, "/run-hub-tests")
    assert {name for name in outcome.jobs if name.startswith("test ")} == {"test mistral", "test qwen2-05b"}, (
        outcome.log
    )
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert "left out: smollm2, mixtral, known to be refused by fast_llm" in scene.state.comment("board").replace(
        "`", ""
    )
    (pending, done) = scene.state.statuses
    assert (pending["state"], done["state"]) == ("pending", "success")
    assert done["description"] == "2 models passed: mistral, qwen2-05b; refused, as known: smollm2, mixtral"


def test_every_way_to_fail_has_its_own_label(scene: Scene) -> None:
    """One entry fails, one crashes, one artifact is lost, one passes; the head moves meanwhile."""
    scene.prepare("smollm2", {"test_forward_equivalence[smollm2]": samples.mismatch()}, status=1)
    crashed = scene.prepare("mistral", status=-11)
    (crashed / "junit.xml").unlink()
    (crashed / "running.txt").write_text("suite.py::test_conversion[mistral]\n")
    scene.prepare("mixtral")
    scene.prepare("qwen2-05b")
    scene.host.environment["E2E_LOSE"] = "hub-tests-mixtral.*"
    scene.state.before = lambda _: move_head(scene)
    outcome = say(scene, "/run-hub-tests smollm2 mistral mixtral qwen2-05b")
    results = {name: result for name, result in outcome.jobs.items() if name.startswith("test ")}
    assert results == {
        "test smollm2": "failure",
        "test mistral": "failure",
        "test mixtral": "success",
        "test qwen2-05b": "success",
    }, outcome.log
    assert outcome.jobs["report"] == outcome.jobs["conclude"] == "failure"
    comment = scene.state.comment("board")
    assert comment.splitlines()[1].startswith("> **stale: head is now [eeeeeeeeeeee]")
    assert "Failed: 3 of 4 models" in comment
    assert samples.ROTARY.split(":")[0].split(",")[0] in comment
    assert "`test_conversion[mistral]`" in comment
    for words in ("crash", "no result file"):
        assert words in comment
    last = read_state(comment).last
    assert last is not None
    assert last.failed == ("smollm2", "mistral", "mixtral")
    assert scene.state.statuses[-1]["description"] == "failed: smollm2, mistral, mixtral"


def move_head(scene: Scene) -> None:
    """Somebody pushes once the run has started."""
    if any(status["state"] == "pending" for status in scene.state.statuses):
        scene.state.pulls[7]["sha"] = "e" * 40


def test_the_hub_is_down(scene: Scene, hub_server: HubServer) -> None:
    hub_server.faults.inject(Fault("status", status=503, times=None, headers={"Retry-After": "0"}))
    try:
        outcome = say(scene, "/run-hub-tests smollm2")
    finally:
        hub_server.faults.clear()
    assert outcome.jobs == {
        "gate": "success",
        "start": "success",
        "plan": "success",
        "watch-fetch": "success",
        "fetch": "failure",
        "report": "failure",
        "conclude": "failure",
    }, outcome.log
    comment = scene.state.comment("board")
    assert "No answer for 1 of 1 model" in comment
    assert "infrastructure problem, not caused by this change" in comment
    assert [s["state"] for s in scene.state.statuses] == ["pending", "error"]


def test_checkpoints_travel_by_cache_and_a_nightly_cache_is_only_read(scene: Scene) -> None:
    scene.prepare("smollm2")
    scene.host.variables["HUB_TESTS_STORE_MODE"] = "cache"
    outcome = say(scene, "/run-hub-tests smollm2")
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert [path.name for path in (scene.host.root / "caches").iterdir()] == ["hub-tests-pull-requests-777-1"]


def test_checkpoints_travel_through_a_place_that_machines_share(scene: Scene) -> None:
    """Fetch and test have stores of their own; what another wrote to the place is verified before the subject runs."""
    scene.prepare("smollm2")
    scene.host.variables |= {"HUB_TESTS_STORE_MODE": "url", "HUB_TESTS_STORE_URL": f"file://{scene.host.root}/place"}
    outcome = say(scene, "/run-hub-tests smollm2")
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    (manifest,) = (scene.host.root / "place/pull-requests/checkpoints").rglob("hub-tests.json")
    assert "SmolLM2" in str(manifest)
    assert list((scene.host.root / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "who"),
    [
        ("Looks good to me. /run-hub-tests smollm2", {}),
        ("/run-hub-tests smollm2", {"login": "renovate[bot]", "kind": "Bot"}),
        ("/run-hub-tests smollm2", {"action": "edited"}),
    ],
    ids=["ordinary", "bot", "edited"],
)
def test_what_is_no_command_costs_nothing(scene: Scene, body: str, who: dict[str, str]) -> None:
    outcome = say(scene, body, **who)
    assert outcome.jobs == {}, outcome.log
    assert scene.contract.fake.log == []


def test_a_reader_is_refused_without_touching_the_result(scene: Scene) -> None:
    outcome = say(scene, "/run-hub-tests smollm2", login="bob")
    assert outcome.jobs == GATE_ONLY, outcome.log
    assert reactions(scene) == ["eyes", "confused"]
    assert "`bob` cannot start hub-tests" in scene.state.comment("answer")
    assert scene.contract.fake.writes() == [
        f"POST /issues/comments/{COMMENT_ID}/reactions",
        f"POST /issues/comments/{COMMENT_ID}/reactions",
        "POST /issues/7/comments",
    ]


def test_a_fork_needs_the_commit_and_gets_the_line_to_paste(scene: Scene) -> None:
    scene.state.pulls[7]["repository"] = "mallory/framework"
    assert say(scene, "/run-hub-tests smollm2").jobs == GATE_ONLY
    line = f"/run-hub-tests smollm2 --sha {scene.commits.head}"
    assert f"```text\n{line}\n```" in scene.state.comment("answer")
    assert scene.state.statuses == []
    scene.prepare("smollm2")
    outcome = say(scene, line)
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert "test smollm2" in outcome.jobs
    assert {s["sha"] for s in scene.state.statuses} == {scene.commits.head}


def test_a_second_attempt_counts_and_the_first_one_stays_as_evidence(scene: Scene) -> None:
    """Both artifacts are there. act has no "re-run failed jobs": that one is in tests/ci/verbs/test_report.py."""
    forward = "test_forward_equivalence[smollm2]"
    scene.prepare("smollm2", {forward: samples.mismatch()}, status=1)
    assert say(scene, "/run-hub-tests smollm2").jobs["test smollm2"] == "failure"
    assert "Failed: 1 of 1 model" in scene.state.comment("board")
    scene.prepare("smollm2")
    scene.host.attempt = 2
    outcome = say(scene, "/run-hub-tests smollm2")
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    assert {path.name for path in (scene.host.root / "artifacts").iterdir()} == {
        "hub-tests-smollm2.1",
        "hub-tests-smollm2.2",
        "report-of-hub-tests",
        f"result-of-hub-tests-{scene.commits.head}",
    }
    comment = scene.state.comment("board")
    assert "Passed: 1 model" in comment
    assert "1 passed only on a later attempt" in comment
    assert re.search(rf"`{re.escape(forward)}` \| ✅ passed \(`?attempt`? 1: failed\)", comment)
    assert [s["state"] for s in scene.state.statuses] == ["pending", "failure", "pending", "success"]


def test_a_second_run_adds_to_the_first_ones_result(scene: Scene) -> None:
    """Through artifacts alone: between the runs, somebody deletes the comment."""
    scene.host.variables["HUB_TESTS_REQUIRED"] = "smollm2 mixtral mistral"
    scene.prepare("mixtral", {"test_forward_equivalence[mixtral]": samples.mismatch()}, status=1)
    assert say(scene, "/run-hub-tests mixtral").jobs["test mixtral"] == "failure"
    assert scene.state.statuses[-1]["description"] == "failed: mixtral; no result yet: smollm2, mistral"
    scene.state.comments.clear()
    scene.state.reactions.clear()
    scene.host.run_id += 1
    scene.prepare("smollm2", deep=True)
    outcome = say(scene, "/run-hub-tests smollm2 --deep")
    assert outcome.jobs["test smollm2"] == "success", outcome.log
    comment = scene.state.comment("board")
    assert "Passed: 1 model" in comment
    assert "- ❌ `mixtral` failed in [run 777]" in comment
    assert scene.state.statuses[-1]["state"] == "failure"
    assert scene.state.statuses[-1]["description"] == "failed: mixtral; no result yet: mistral"


CALLER = """on: {issue_comment: {types: [created]}}
jobs:
  hub-tests:
    uses: ./.github/workflows/hub-tests-comment.yml
    with: {subject: reference, device: cpu, registry: hub-models.toml, required: ours, store-path: STORE}
    secrets: {HF_TOKEN: "${{ secrets.HF_TOKEN }}"}
"""


def test_a_callers_own_registry_is_read_from_its_default_branch(scene: Scene) -> None:
    """The pull request's branch points `ours` at another model and adds `theirs`: neither is heard of."""
    scene.host.callers["caller.yml"] = CALLER.replace("STORE", str(scene.host.root / "store"))
    scene.prepare("ours")
    payload = events.comment("/run-hub-tests theirs")
    outcome = scene.host.run("caller.yml", "issue_comment", payload)
    assert outcome.jobs == GATE_ONLY, outcome.log
    assert "no model" in scene.state.comment("answer")
    outcome = scene.host.run("caller.yml", "issue_comment", events.comment("/run-hub-tests"))
    assert outcome.jobs.get("test ours") == "success", outcome.log
    assert set(outcome.jobs.values()) == {"success"}, outcome.log
    (checkpoint,) = (scene.host.root / "store/pull-requests/checkpoints").rglob("config.json")
    assert "SmolLM2" in str(checkpoint)
    assert scene.state.statuses[-1]["sha"] == scene.commits.head
    assert "`ours`" in scene.state.comment("board")


def test_help_plan_and_cancel_start_nothing(scene: Scene) -> None:
    running = CommentState((StartedRun(555, 1, scene.commits.head, ("mixtral",)),))
    scene.state.comments.append(
        {"id": 8000, "issue": 7, "user": BOT, "body": format_status_comment("running", running)}
    )
    scene.state.runs[555] = {"status": "in_progress"}
    for body, said in (
        ("/run-hub-tests help", r"`@moe`"),
        ("/run-hub-tests @moe --plan", r"1 entry, no history.*\n(.*\n)*.*`mixtral`"),
        ("/run-hub-tests mixtral", r"being tested already: \[run 555\]"),
        ("/run-hub-tests mixtrla", r"Did you mean"),
        ("/run-hub-tests cancel", r"Cancelling \[run 555\]"),
    ):
        assert say(scene, body).jobs == GATE_ONLY
        assert re.search(said, scene.state.comment("answer"))
    assert scene.state.cancelled == [555]
    assert len([c for c in scene.state.comments if c["user"] == BOT]) == 2
