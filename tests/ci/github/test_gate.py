"""Who may start what, at which commit: the decision and its exact answer, over facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.github import messages
from ci.github.command import parse_command
from ci.github.event import CommentEvent
from ci.github.gate import GateDecision, decide, ignore_reason, ignore_second_start
from ci.github.gate_input import GateInput, GitHubFacts, PullRequest, RepoSettings, Role
from ci.github.status_comment import MAX_STATE_CHARS, CommentState, LastResult, StartedRun
from ci.models import HubModel, load_models
from ci.report.history import Baseline
from tests.ci.report import samples

HEAD, OLD = "1" * 40, "2" * 40
MODELS = load_models()
WRITE = Role("write", "write")
PULL = PullRequest(7, True, HEAD, "o/r", "o/r")
FORK = replace(PULL, head_repository="mallory/r")
DEFAULTS = tuple(name for name, model in MODELS.items() if "default" in model.groups)


def said(body: str, **changes: Any) -> CommentEvent:
    known = CommentEvent("created", "o/r", "main", 7, True, True, 11, "https://x", body, "alice", "User", "MEMBER")
    return replace(known, **changes)


def gate(
    body: str,
    *,
    facts: GitHubFacts | None = None,
    settings: RepoSettings | None = None,
    baseline: Baseline | None = None,
    **event: Any,
) -> GateDecision:
    known = facts or GitHubFacts(WRITE, PULL)
    return decide(GateInput(said(body, **event), known, MODELS, settings or RepoSettings(), baseline or Baseline()))


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
    assert why in (ignore_reason(said(**{"body": "/run-hub-tests", **changes})) or "")


def test_what_is_heard_even_if_it_cannot_be_read() -> None:
    assert ignore_reason(said("/run-hub-tests --nonsense")) is None


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
    found = gate("/run-hub-tests", facts=GitHubFacts(role, PULL))
    assert (found.decision == "run") is allowed
    if not allowed:
        assert found.answer.startswith(f"`alice` cannot start hub-tests: the role here is `{role.name}`")
        assert (found.decision, found.reaction, found.sha) == ("refused", "confused", "")


@pytest.mark.parametrize("body", ["help", "cancel", "--plan", "--nonsense"])
def test_others_get_no_other_answer(body: str) -> None:
    assert gate(f"/run-hub-tests {body}", facts=GitHubFacts(Role("read", "read"), PULL)).decision == "refused"


def test_an_allow_list_narrows_and_never_widens() -> None:
    assert gate("/run-hub-tests", settings=RepoSettings(allowed_logins=("ALICE",))).decision == "run"
    assert "`HUB_TESTS_ALLOWED`" in gate("/run-hub-tests", settings=RepoSettings(allowed_logins=("bob",))).answer
    reader = GitHubFacts(Role("read", "read"), PULL)
    assert gate("/run-hub-tests", facts=reader, settings=RepoSettings(allowed_logins=("alice",))).decision == "refused"


def test_a_branch_of_the_repository_is_fixed_to_its_head() -> None:
    found = gate("/run-hub-tests mixtral qwen2-* --layers auto")
    assert found == GateDecision(
        "run",
        f"alice may start mixtral, qwen2-05b, qwen2-7b at {HEAD}",
        reaction="rocket",
        pull_request=7,
        comment_id=11,
        sha=HEAD,
        models=("mixtral", "qwen2-05b", "qwen2-7b"),
        layers="auto",
    )
    assert gate("/run-hub-tests").models == DEFAULTS


@pytest.mark.parametrize("pull", [FORK, replace(FORK, head_repository=None)])
def test_a_fork_runs_only_at_the_commit_that_was_named(pull: PullRequest) -> None:
    facts = GitHubFacts(WRITE, pull)
    asked = gate("/run-hub-tests mixtral --layers 4", facts=facts)
    assert asked.decision == "refused"
    line = f"/run-hub-tests mixtral --layers 4 --sha {HEAD}"
    assert f"```text\n{line}\n```" in asked.answer
    assert parse_command(line) is not None
    assert gate(line, facts=facts).sha == HEAD


@pytest.mark.parametrize("pull", [PULL, FORK])
def test_a_commit_that_is_not_the_head_is_refused_with_the_line_to_paste(pull: PullRequest) -> None:
    found = gate(f"/run-hub-tests --sha {OLD}", facts=GitHubFacts(WRITE, pull))
    assert found.decision == "refused"
    assert f"```text\n/run-hub-tests --sha {HEAD}\n```" in found.answer


def test_a_closed_pull_request() -> None:
    assert "closed" in gate("/run-hub-tests", facts=GitHubFacts(WRITE, replace(PULL, is_open=False))).answer


def test_the_same_again_is_answered_with_a_link() -> None:
    running = StartedRun(55, 1, HEAD, ("qwen2-05b", "mixtral"))
    facts = GitHubFacts(WRITE, PULL, active_runs=(running,))
    found = gate("/run-hub-tests mixtral qwen2-05b", facts=facts)
    assert (found.decision, found.sha) == ("answered", "")
    assert "[run 55](https://github.com/o/r/actions/runs/55)" in found.answer
    for other in ("mixtral", "mixtral qwen2-05b --layers 3"):
        assert gate(f"/run-hub-tests {other}", facts=facts).decision == "run"
    moved = GitHubFacts(WRITE, replace(PULL, head_sha=OLD), active_runs=(running,))
    assert gate("/run-hub-tests mixtral qwen2-05b", facts=moved).decision == "run"


def test_the_same_comment_twice() -> None:
    found = ignore_second_start(gate("/run-hub-tests"))
    assert (found.decision, found.sha, found.models) == ("ignored", "", ())


def test_failed_repeats_the_last_failures() -> None:
    last = LastResult(5, OLD, ("mixtral", "mistral"), ("mistral",))
    found = gate("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=CommentState(last=last)))
    assert (found.decision, found.models, found.sha) == ("run", ("mistral",), HEAD)
    deep = GitHubFacts(WRITE, PULL, state=CommentState(last=replace(last, layers=4)))
    assert gate("/run-hub-tests --failed", facts=deep).layers == 4
    assert gate("/run-hub-tests --failed --layers auto", facts=deep).layers == "auto"
    green = CommentState(last=replace(last, failed=()))
    assert "Nothing failed" in gate("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=green)).answer
    assert "No run has finished" in gate("/run-hub-tests --failed").answer
    older = CommentState(last=replace(last, failed=(), unsettled=("mixtral",)))
    assert gate("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=older)).models == ("mixtral",)
    gone = CommentState(last=replace(last, failed=("gone",)))
    assert "no model" in gate("/run-hub-tests --failed", facts=GitHubFacts(WRITE, PULL, state=gone)).answer


def test_a_plan_starts_nothing_and_estimates_from_history() -> None:
    plan = samples.plan_of("smollm2", subject="reference")
    history = samples.nights(plan, {}, {})
    known = {name: tuple(replace(r, seconds=180.0) for r in records) for name, records in history.records.items()}
    found = gate("/run-hub-tests smollm2 mixtral --plan", baseline=replace(history, records=known))
    assert (found.decision, found.sha) == ("answered", "")
    assert found.answer.startswith("2 entries, about 6 GPU minutes by the last nights. Nothing was started.")
    assert "| `smollm2` | `HuggingFaceTB/SmolLM2-135M` | 2 | 7 | 3.0 |" in found.answer
    assert "| `mixtral` | `mistralai/Mixtral-8x7B-v0.1` | 2 | 9 | no history |" in found.answer
    assert "`/run-hub-tests smollm2 mixtral`" in found.answer
    assert "no history to estimate from" in gate("/run-hub-tests --plan").answer
    assert gate("/run-hub-tests --plan", facts=GitHubFacts(WRITE, FORK)).decision == "answered"


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
    found = gate(f"/run-hub-tests {body}")
    assert (found.decision, found.reaction) == ("refused", "confused")
    assert words in found.answer
    assert "```text\n/run-hub-tests [MODEL" in found.answer


def test_an_answer_never_pings_anybody() -> None:
    for body in ("@octo-org/team", "@octocat", "--sha @octocat"):
        prose = gate(f"/run-hub-tests {body}").answer.split("```")[0]
        for piece in prose.split("`")[::2]:  # outside of code spans
            assert "@octo" not in piece


def test_help_lists_groups_and_models() -> None:
    found = gate("/run-hub-tests help")
    assert (found.decision, found.reaction) == ("answered", "+1")
    assert "| `@moe` | `mixtral` |" in found.answer


def test_answers_about_the_largest_registry_fit_into_a_comment() -> None:
    groups = tuple(f"group-{n}" for n in range(9))
    names = [f"{'m' * 59}-{n:03d}" for n in range(256)]
    models = {name: HubModel(name, f"org/{'i' * 91}", "llama", groups=("default", *groups)) for name in names}
    for body in ("help", "--plan", "--plan nonesuch", "nonesuch", ""):
        found = decide(
            GateInput(said(f"/run-hub-tests {body}"), GitHubFacts(WRITE, PULL), models, RepoSettings(), Baseline())
        )
        assert len(found.answer) < 65_000, body
    started = messages.format_running(HEAD, names, "alice", run_url="https://x/1", waiting=messages.say_no_runner([]))
    assert len(started) < 65_000 - MAX_STATE_CHARS


def test_cancel() -> None:
    found = gate(
        "/run-hub-tests cancel", facts=GitHubFacts(WRITE, PULL, active_runs=(StartedRun(5, 1, HEAD, ("mixtral",)),))
    )
    assert (found.decision, found.cancel) == ("cancel", (5,))
    assert "Nothing is running" in gate("/run-hub-tests cancel").answer
