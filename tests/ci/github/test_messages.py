"""The texts on the pull request: help, plans and refusals, for ordinary and for the largest registries."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ci.github import messages
from ci.github.commit_results import ModelResult
from ci.github.commit_status import RunUnderWay, decide_status
from ci.github.gate import decide
from ci.github.gate_input import GateInput, GitHubFacts, RepoSettings
from ci.github.status_comment import MAX_STATE_CHARS
from ci.models import HubModel
from ci.report.history import Baseline
from tests.ci.github.decisions import FORK, HEAD, PULL, WRITE, comment_event, decide_on
from tests.ci.report import samples


def test_a_plan_starts_nothing_and_estimates_from_history() -> None:
    plan = samples.plan_of("smollm2", subject="reference")
    history = samples.nights(plan, {}, {})
    known = {name: tuple(replace(r, seconds=180.0) for r in records) for name, records in history.records.items()}
    decision = decide_on("/run-hub-tests smollm2 mixtral --plan", baseline=replace(history, records=known))
    assert (decision.decision, decision.sha) == ("answered", "")
    assert decision.answer.startswith("2 entries, about 6 GPU minutes by the last nights. Nothing was started.")
    assert "| `smollm2` | `HuggingFaceTB/SmolLM2-135M` | 2 | 7 | 3.0 |" in decision.answer
    assert "| `mixtral` | `mistralai/Mixtral-8x7B-v0.1` | 2 | 9 | no history |" in decision.answer
    assert "`/run-hub-tests smollm2 mixtral`" in decision.answer
    assert "no history to estimate from" in decide_on("/run-hub-tests --plan").answer
    assert decide_on("/run-hub-tests --plan", facts=GitHubFacts(WRITE, FORK)).decision == "answered"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("mixtrall", "Did you mean"),
        ("@mo", "Did you mean"),
        ("zzz*", "no model"),
        ("--layer 2", "Did you mean"),
        ("@everyone", "no group"),
    ],
)
def test_what_cannot_be_done_is_answered_with_the_list(body: str, words: str) -> None:
    decision = decide_on(f"/run-hub-tests {body}")
    assert (decision.decision, decision.reaction) == ("refused", "confused")
    assert words in decision.answer
    assert "```text\n/run-hub-tests [MODEL" in decision.answer


def test_an_answer_never_pings_anybody() -> None:
    for body in ("@octo-org/team", "@octocat", "--sha @octocat"):
        prose = decide_on(f"/run-hub-tests {body}").answer.split("```")[0]
        for piece in prose.split("`")[::2]:  # outside of code spans
            assert "@octo" not in piece


def test_help_lists_groups_and_models() -> None:
    decision = decide_on("/run-hub-tests help")
    assert (decision.decision, decision.reaction) == ("answered", "+1")
    assert "| `@moe` | `mixtral` |" in decision.answer


def test_answers_about_the_largest_registry_fit_into_a_comment() -> None:
    groups = tuple(f"group-{n}" for n in range(9))
    names = [f"{'m' * 59}-{n:03d}" for n in range(256)]
    models = {name: HubModel(name, f"org/{'i' * 91}", "llama", groups=("default", *groups)) for name in names}
    for body in ("help", "--plan", "--plan nonesuch", "nonesuch", ""):
        decision = decide(
            GateInput(
                comment_event(f"/run-hub-tests {body}"), GitHubFacts(WRITE, PULL), models, RepoSettings(), Baseline()
            )
        )
        assert len(decision.answer) < 65_000, body
    started = messages.format_running(HEAD, names, "alice", run_url="https://x/1", waiting=messages.say_no_runner([]))
    assert len(started) < 65_000 - MAX_STATE_CHARS


def test_what_other_runs_found_is_harmless_and_fits() -> None:
    """The names and headlines come from other runs' artifacts: text that a test may have written."""
    evil = "x`</code>\n# @octocat ::error::![i](http://evil/) | " + "y" * 400
    results = [ModelResult(f"{evil}{n}", "failed", evil, run_id=n, run_url="javascript:alert(1)") for n in range(300)]
    status = decide_status([evil], results, (RunUnderWay(5, (evil,) * 300), RunUnderWay(6)), evil)
    text = messages.format_commit_status(status, None)
    assert len(text) < 45_000
    assert "javascript:" not in text
    assert "and 260 more" in text
    for line in text.splitlines():
        assert not line.startswith(("#", "::")), line
        for piece in re.sub(r"(`+).*?\1", "", line).split():
            assert "@octo" not in piece
    assert messages.format_commit_status(decide_status((), [ModelResult("a", "failed", run_id=1)]), 1) == ""
