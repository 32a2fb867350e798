"""All of it: from the recorded webhook to the comment, with a real fetch, the real suite and a really broken converter.

The pull request's branch swaps the halves of the gated MLP in the reference's converter. pip installs the service and
the subject from their checkouts, the subject's worker is the broken checkout's own, the judge is not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.report.history import history_line
from tests.ci.report import samples
from tests.e2e import events

if TYPE_CHECKING:
    from tests.e2e.conftest import Scene


def seed_history(scene: Scene) -> None:
    """Two good nights of smollm2 on the data branch."""
    plan = samples.plan_of("smollm2", subject="reference")
    nights = samples.nights(plan, {}, {}, sha=scene.commits.main)
    lines = "".join(history_line(replace(night)) for night in nights.records["smollm2"])
    tree = scene.state.put({"history/2026-08.jsonl": scene.state.put(lines)})
    commit = scene.state.put({"tree": tree, "parents": [], "message": "nights"})
    scene.state.refs["heads/hub-tests-data"] = commit


def test_a_broken_converter_is_a_new_failure_with_its_layer(real_scene: Scene) -> None:
    scene = real_scene
    seed_history(scene)
    scene.state.pulls[7]["sha"] = scene.commits.broken
    outcome = scene.host.run(
        "hub-tests-comment.yml", "issue_comment", events.comment("/run-hub-tests smollm2 --layers 2")
    )
    jobs = {"gate", "start", "plan", "watch-fetch", "fetch", "watch", "test smollm2", "report", "conclude"}
    assert outcome.jobs.keys() == jobs, outcome.log
    assert {name for name, result in outcome.jobs.items() if result == "failure"} == {
        "test smollm2",
        "report",
        "conclude",
    }, outcome.log
    comment = scene.state.comment("board")
    (scene.host.root / "comment.md").write_text(comment)  # what tests/e2e/picture.py makes a picture of
    verdict = comment.splitlines()[1]
    assert verdict.startswith("## ❌ Failed: 1 of 1 model"), outcome.log
    assert "layer 0" in verdict
    assert "🆕" in comment
    assert "test_forward_equivalence[smollm2]" in comment
    assert scene.commits.broken[:12] in comment
    assert [s["state"] for s in scene.state.statuses] == ["pending", "failure"]
