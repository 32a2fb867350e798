"""A comment on a pull request, from the recorded webhook to what stands on the pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e import events

if TYPE_CHECKING:
    from tests.e2e.conftest import Scene

COMMENT = "hub-tests-comment.yml"
FULL_RUN = {"gate", "plan", "fetch", "watch", "report", "conclude"}


def test_a_writer_starts_a_run_and_reads_its_result(scene: Scene) -> None:
    scene.prepare("smollm2")
    outcome = scene.house.run(COMMENT, "issue_comment", events.comment("/run-hub-tests smollm2"))
    print(outcome.log)
    assert outcome.jobs == dict.fromkeys([*FULL_RUN, "test smollm2"], "success"), outcome.log
