"""Who may start what, at which commit: the decision and its exact answer, over facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.github.command import parse_command
from ci.github.gate import GateDecision, ignore_reason, ignore_second_start
from ci.github.gate_input import GitHubFacts, PullRequest, RepoSettings, Role
from ci.github.status_comment import CommentState, LastResult, StartedRun
from ci.hub.slices import Slice
from ci.report.history import Baseline, HistoryRecord
from tests.ci.github.decisions import DEFAULTS, FORK, HEAD, MODELS, OLD, PULL, WRITE, comment_event, decide_on


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"action": "edited"}, "edited"),
        ({"action": "deleted"}, "deleted"),
        ({"is_pull_request": False}, "not on a pull request"),
        ({"user_type": "Bot"}, "not a human"),
        ({"login": "evil[bot]"}, "not a human"),
        ({"user_type": "Organization"}, "not a human"),
        ({"body": "hello"}, "not a command"),
        ({"body": "/RUN-HUB-TESTS"}, "not a command"),
    ],
)
def test_what_is_not_heard(changes: dict[str, Any], why: str) -> None:
    assert why in (ignore_reason(comment_event(**{"body": "/run-hub-tests", **changes})) or "")


def test_what_is_heard_even_if_it_cannot_be_read() -> None:
    assert ignore_reason(comment_event("/run-hub-tests --nonsense")) is None


def test_a_comment_without_a_model_leaves_out_what_is_known_to_be_refused() -> None:
    settings = RepoSettings(subject="fast_llm")
    decision = decide_on("/run-hub-tests", settings=settings)
    known = tuple(name for name in DEFAULTS if MODELS[name].find_refusal("fast_llm"))
    assert known == ("smollm2", "mixtral")
    assert decision.models == tuple(name for name in DEFAULTS if name not in known)
    assert decision.left_out.startswith("left out: smollm2, mixtral, known to be refused by fast_llm (docs/findings.md")
    named = decide_on("/run-hub-tests smollm2", settings=settings)
    assert (named.models, named.left_out) == (("smollm2",), "")
    planned = decide_on("/run-hub-tests --plan", settings=settings)
    assert "left out: smollm2, mixtral" in planned.answer.replace("`", "")


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role("admin", "admin"), True),
        (Role("maintain", "write"), True),
        (Role("write", "write"), True),
        (Role("release-team", "write"), True),
        (Role("auditors", "read"), False),
        (Role("triage", "read"), False),
        (Role("read", "read"), False),
        (Role("none", "none"), False),
        (Role("triage", "write"), False),
        (Role(), False),
    ],
)
def test_only_writers_start(role: Role, allowed: bool) -> None:
    decision = decide_on("/run-hub-tests", facts=GitHubFacts(role, PULL))
    assert (decision.decision == "run") is allowed
    if not allowed:
        assert decision.answer.startswith(f"`alice` cannot start hub-tests: the role here is `{role.name}`")
        assert (decision.decision, decision.reaction, decision.sha) == ("refused", "confused", "")


@pytest.mark.parametrize("body", ["help", "cancel", "--plan", "--nonsense"])
def test_others_get_no_other_answer(body: str) -> None:
    assert decide_on(f"/run-hub-tests {body}", facts=GitHubFacts(Role("read", "read"), PULL)).decision == "refused"


def test_an_allow_list_narrows_and_never_widens() -> None:
    assert decide_on("/run-hub-tests", settings=RepoSettings(allowed_logins=("ALICE",))).decision == "run"
    assert "`HUB_TESTS_ALLOWED`" in decide_on("/run-hub-tests", settings=RepoSettings(allowed_logins=("bob",))).answer
    reader = GitHubFacts(Role("read", "read"), PULL)
    assert (
        decide_on("/run-hub-tests", facts=reader, settings=RepoSettings(allowed_logins=("alice",))).decision
        == "refused"
    )


def test_a_branch_of_the_repository_is_fixed_to_its_head() -> None:
    decision = decide_on("/run-hub-tests mixtral qwen2-* --layers auto")
    assert decision == GateDecision(
        "run",
        f"alice may start mixtral, qwen2-05b, qwen2-7b at {HEAD}",
        reaction="rocket",
        pull_request=7,
        comment_id=11,
        sha=HEAD,
        models=("mixtral", "qwen2-05b", "qwen2-7b"),
        layers="auto",
    )
    assert decide_on("/run-hub-tests").models == DEFAULTS


@pytest.mark.parametrize("pull", [FORK, replace(FORK, head_repository=None)])
def test_a_fork_runs_only_at_the_commit_that_was_named(pull: PullRequest) -> None:
    facts = GitHubFacts(WRITE, pull)
    asked = decide_on("/run-hub-tests mixtral --layers 4", facts=facts)
    assert asked.decision == "refused"
    line = f"/run-hub-tests mixtral --layers 4 --sha {HEAD}"
    assert f"```text\n{line}\n```" in asked.answer
    assert parse_command(line) is not None
    assert decide_on(line, facts=facts).sha == HEAD


@pytest.mark.parametrize("pull", [PULL, FORK])
def test_a_commit_that_is_not_the_head_is_refused_with_the_line_to_paste(pull: PullRequest) -> None:
    decision = decide_on(f"/run-hub-tests --sha {OLD}", facts=GitHubFacts(WRITE, pull))
    assert decision.decision == "refused"
    assert f"```text\n/run-hub-tests --sha {HEAD}\n```" in decision.answer


def test_a_closed_pull_request() -> None:
    assert "closed" in decide_on("/run-hub-tests", facts=GitHubFacts(WRITE, replace(PULL, is_open=False))).answer


def test_the_same_again_is_answered_with_a_link() -> None:
    running = StartedRun(55, 1, HEAD, ("qwen2-05b", "mixtral"))
    facts = GitHubFacts(WRITE, PULL, active_runs=(running,))
    decision = decide_on("/run-hub-tests mixtral qwen2-05b", facts=facts)
    assert (decision.decision, decision.sha) == ("answered", "")
    assert "[run 55](https://github.com/o/r/actions/runs/55)" in decision.answer
    for other in ("mixtral", "mixtral qwen2-05b --layers 3"):
        assert decide_on(f"/run-hub-tests {other}", facts=facts).decision == "run"
    moved = GitHubFacts(WRITE, replace(PULL, head_sha=OLD), active_runs=(running,))
    assert decide_on("/run-hub-tests mixtral qwen2-05b", facts=moved).decision == "run"


def test_the_same_comment_twice() -> None:
    decision = ignore_second_start(decide_on("/run-hub-tests"))
    assert (decision.decision, decision.sha, decision.models) == ("ignored", "", ())


def test_failed_repeats_the_last_failures() -> None:
    last = LastResult(5, OLD, ("mixtral", "mistral"), ("mistral",))
    decision = decide_on("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=CommentState(last=last)))
    assert (decision.decision, decision.models, decision.sha) == ("run", ("mistral",), HEAD)
    deep = GitHubFacts(WRITE, PULL, state=CommentState(last=replace(last, layers=4)))
    assert decide_on("/run-hub-tests --failed", facts=deep).layers == 4
    assert decide_on("/run-hub-tests --failed --layers auto", facts=deep).layers == "auto"
    sliced = GitHubFacts(WRITE, PULL, state=CommentState(last=replace(last, slice=Slice(4096))))
    assert decide_on("/run-hub-tests --failed", facts=sliced).slice == Slice(4096)
    assert decide_on("/run-hub-tests --failed --slice vocab=9", facts=sliced).slice == Slice(9)
    green = CommentState(last=replace(last, failed=()))
    assert "Nothing failed" in decide_on("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=green)).answer
    assert "No run has finished" in decide_on("/run-hub-tests --failed").answer
    older = CommentState(last=replace(last, failed=(), unsettled=("mixtral",)))
    assert decide_on("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=older)).models == ("mixtral",)
    gone = CommentState(last=replace(last, failed=("gone",)))
    assert "no model" in decide_on("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=gone)).answer


def test_deep_is_asked_for_and_repeated() -> None:
    assert decide_on("/run-hub-tests mixtral --deep").deep
    assert not decide_on("/run-hub-tests mixtral").deep
    last = CommentState(last=LastResult(5, HEAD, ("mixtral",), ("mixtral",), deep=True))
    assert decide_on("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=last)).deep
    running = GitHubFacts(WRITE, PULL, active_runs=(StartedRun(55, 1, HEAD, ("mixtral",)),))
    assert decide_on("/run-hub-tests mixtral --deep", facts=running).decision == "run"


def test_an_engine_is_asked_for_and_repeated() -> None:
    assert decide_on("/run-hub-tests mixtral --consumer vllm").consumer == "vllm"
    assert decide_on("/run-hub-tests mixtral").consumer is None
    last = CommentState(last=LastResult(5, HEAD, ("mixtral",), ("mixtral",), consumer="vllm"))
    facts = GitHubFacts(WRITE, PULL, state=last)
    assert decide_on("/run-hub-tests --failed", facts=facts).consumer == "vllm"
    assert decide_on("/run-hub-tests --failed --consumer transformers", facts=facts).consumer == "transformers"
    running = GitHubFacts(WRITE, PULL, active_runs=(StartedRun(55, 1, HEAD, ("mixtral",)),))
    assert decide_on("/run-hub-tests mixtral --consumer vllm", facts=running).decision == "run"
    assert decide_on("/run-hub-tests mixtral", facts=running).decision == "answered"


def test_a_run_at_an_older_commit_keeps_none_from_being_started() -> None:
    old, new = StartedRun(55, 1, OLD, ("mixtral",)), StartedRun(56, 1, HEAD, ("mistral",))
    found = decide_on("/run-hub-tests mixtral", facts=GitHubFacts(WRITE, PULL, active_runs=(old, new)))
    assert (found.decision, found.sha) == ("run", HEAD)


def test_cancel() -> None:
    decision = decide_on(
        "/run-hub-tests cancel", facts=GitHubFacts(WRITE, PULL, active_runs=(StartedRun(5, 1, HEAD, ("mixtral",)),))
    )
    assert (decision.decision, decision.cancel) == ("cancel", (5,))
    assert "Nothing is running" in decide_on("/run-hub-tests cancel").answer


def test_bisect_answers_with_the_line_to_paste() -> None:
    settings = RepoSettings("fast_llm")
    known = HistoryRecord("2026-09-01", "mixtral", "passed", "a" * 40, (), device="cuda")
    broken = replace(known, date="2026-09-02", verdict="failed", sha="b" * 40)
    for records, ends in (((known, broken), ("a", "b")), ((known,), ("a", "1"))):
        decision = decide_on(
            "/run-hub-tests bisect mixtral", settings=settings, baseline=Baseline({"mixtral": records})
        )
        assert (decision.decision, decision.reaction) == ("answered", "+1")
        line = f"hub-tests bisect mixtral --good {ends[0] * 40} --bad {ends[1] * 40} --subject fast_llm"
        assert line in decision.answer
    fork = decide_on(
        "/run-hub-tests bisect mixtral",
        facts=GitHubFacts(WRITE, FORK),
        settings=settings,
        baseline=Baseline({"mixtral": (known,)}),
    )
    assert "passed in the newest night on main" in fork.answer
    sliced = Baseline({"mixtral": (known, replace(broken, subset="vocab=9"))})
    assert "broke on main" not in decide_on("/run-hub-tests bisect mixtral", settings=settings, baseline=sliced).answer
    assert "has no night that passed" in decide_on("/run-hub-tests bisect mixtral").answer
    described = RepoSettings("trainer", described=True)  # no word of a command line finds its adapter elsewhere
    answer = decide_on(
        "/run-hub-tests bisect mixtral", settings=described, baseline=Baseline({"mixtral": (known, broken)})
    ).answer
    assert "hub-tests bisect mixtral" not in answer
    assert "name the ends yourself" in answer
    wrong = decide_on("/run-hub-tests bisect mixtrall")
    assert (wrong.decision, "Did you mean" in wrong.answer) == ("refused", True)
