"""What is known about a commit: results of finished runs, and runs that are still under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.github.commit_view import CommitView, read_commit
from tests.ci.github.samples import add_result
from tests.e2e.fake_github import Fault

if TYPE_CHECKING:
    from ci.github.client import Client
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State

SHA = "a" * 40
BOT = "github-actions[bot]"


def test_the_results_of_finished_runs_decide(client: Client, state: State) -> None:
    add_result(state, 5, SHA, mixtral="failed")
    view = read_commit(client, SHA, run_id=None, bot=BOT)
    assert (view.under_way, view.problems) == ((), ())
    assert view.decide(["mixtral"]).state == "failure"


def test_a_required_model_without_a_result_is_pending() -> None:
    assert CommitView().decide(["mixtral"]).state == "pending"


def test_what_cannot_be_read_is_a_problem_and_never_green(client: Client, github: Contract) -> None:
    add_result(github.fake.state, 5, SHA, mixtral="passed")
    github.fake.faults[:] = [Fault("GET", ".*/actions/artifacts", 503, times=9)]
    view = read_commit(client, SHA, run_id=None, bot=BOT)
    assert view.problems
    assert view.decide(["mixtral"]).state != "success"
