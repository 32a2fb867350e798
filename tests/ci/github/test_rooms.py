"""What is asked of GitHub and written to it, against the stand-in: pulls, comments, runs, checks, branch, issue."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github import branch, checks, nightly, pulls, runs
from ci.github.api import Api
from ci.github.board import marker
from ci.github.client import Client
from ci.github.facts import PullRequest, Role
from ci.report.history import make_history_records
from tests.ci.report import samples
from tests.e2e.fake_github import BOT, NOW, TOKEN, FakeGitHub, Fault

if TYPE_CHECKING:
    from ci.report.history import Baseline
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import Request, State

SHA = "a" * 40


def test_roles(client: Client, state: State) -> None:
    state.roles |= {"ann": "admin", "tri": "triage", "cus": "release-team"}
    state.bases["cus"] = "write"
    assert pulls.role(client, "ann") == Role("admin", "admin")
    assert pulls.role(client, "tri") == Role("triage", "read")
    assert pulls.role(client, "cus") == Role("release-team", "write")
    assert not pulls.role(client, "stranger").writes


def test_somebody_github_does_not_know_has_no_role(client: Client, github: Contract) -> None:
    github.fake.faults.append(Fault("GET", ".*/permission", 404))
    assert pulls.role(client, "ghost") == Role("none", "none")


def test_a_pull_request(client: Client, state: State) -> None:
    state.pulls[3] = {"state": "closed", "sha": SHA, "repository": "mallory/framework"}
    found = pulls.pull_request(client, 3)
    assert found == PullRequest(3, False, SHA, "mallory/framework", state.repository)
    assert found.is_fork


def test_a_pull_request_of_a_deleted_fork() -> None:
    """GitHub then answers null, which its own description does not know."""
    with FakeGitHub() as bare, Client(Api(bare.state.repository, TOKEN, bare.url)) as client:
        bare.state.pulls[3] = {"state": "open", "sha": SHA, "repository": None}
        found = pulls.pull_request(client, 3)
    assert (found.head_repository, found.is_fork) == (None, True)


def test_only_the_first_reaction_is_the_first(client: Client) -> None:
    assert [pulls.react(client, 5, "rocket") for _ in range(3)] == [True, False, False]


def test_a_comment_with_our_marker_by_somebody_else_is_not_ours(client: Client, state: State) -> None:
    for who, body in (
        ("mallory", marker("board")),
        ("other[bot]", marker("board")),
        (BOT, "see " + marker("board")),
        (BOT, f"{marker('answer')}\n{marker('board')}"),
    ):
        state.comments.append({"id": len(state.comments) + 1, "issue": 7, "user": who, "body": body})
    assert pulls.find_comment(client, 7, "board", bot=BOT) is None
    made = pulls.keep_comment(client, 7, None, f"{marker('board')}\none")
    again = pulls.keep_comment(client, 7, pulls.find_comment(client, 7, "board", bot=BOT), f"{marker('board')}\ntwo")
    assert again.id == made.id
    assert [comment["body"] for comment in state.comments[4:]] == [f"{marker('board')}\ntwo"]


def test_our_comment_is_found_behind_a_hundred_others(client: Client, state: State) -> None:
    for number in range(150):
        state.comments.append({"id": number + 1, "issue": 7, "user": "ann", "body": "me too"})
    state.comments.append({"id": 500, "issue": 7, "user": BOT, "body": marker("board") + "\r\nx"})
    found = pulls.find_comment(client, 7, "board", bot=BOT)
    assert found is not None
    assert found.id == 500


def test_a_comment_that_was_deleted_is_written_anew(client: Client, state: State) -> None:
    made = pulls.keep_comment(client, 7, None, marker("board"))
    state.comments.clear()
    pulls.keep_comment(client, 7, made, f"{marker('board')}\nx")
    assert len(state.comments) == 1


def test_a_comment_too_long_is_refused_before_it_is_sent(client: Client, github: Contract) -> None:
    with pytest.raises(RequestError, match="65537 characters"):
        pulls.keep_comment(client, 7, None, "x" * 65537)
    assert github.fake.log == []


def job(name: str, number: int = 1, **changes: Any) -> dict[str, Any]:
    known = {
        "id": number,
        "run_id": 5,
        "name": name,
        "status": "completed",
        "conclusion": "success",
        "html_url": "https://github.com/x",
        "started_at": NOW,
        "completed_at": "2026-01-02T03:05:05Z",
        "run_attempt": 1,
        "runner_name": "gpu-1",
        "labels": ["self-hosted", "gpu"],
    }
    return known | changes


def test_the_newest_attempt_of_an_entrys_job_counts(client: Client, state: State) -> None:
    state.jobs[5] = [
        job("hub-tests / run / test mixtral", 1, run_attempt=2),
        job("hub-tests / run / test mixtral", 2, conclusion="failure"),
        job("test qwen2-05b", 3, status="queued", conclusion=None, runner_name=None, completed_at=None),
        job("run / test evil / test mixtral x", 4),
        job("run / report", 5),
    ]
    found = runs.entry_jobs(runs.jobs(client, 5))
    assert set(found) == {"mixtral", "qwen2-05b"}
    assert (found["mixtral"].conclusion, found["mixtral"].attempt, found["mixtral"].seconds) == ("success", 2, 60.0)
    assert found["qwen2-05b"].note == "waits for a runner with self-hosted, gpu"


def test_a_job_that_was_not_run_again_is_of_the_attempt_in_which_it_ran(client: Client, state: State) -> None:
    """ "Re-run failed jobs" lists a job that had succeeded once more, unchanged but for the attempt's number."""
    mixtral, smollm2 = "run / test mixtral", "run / test smollm2"
    later = {"run_attempt": 2, "started_at": "2026-01-02T04:00:00Z", "completed_at": "2026-01-02T04:01:00Z"}
    state.jobs[5] = [
        *(job(mixtral, 1), job(smollm2, 2, conclusion="failure")),
        *(job(mixtral, 3, run_attempt=2), job(smollm2, 4, **later)),
        *(job(mixtral, 5, run_attempt=3), job(smollm2, 6, **later | {"run_attempt": 3})),
    ]
    found = runs.entry_jobs(runs.jobs(client, 5))
    assert {name: entry.attempt for name, entry in found.items()} == {"mixtral": 1, "smollm2": 2}
    waiting = {"status": "queued", "conclusion": None, "runner_name": None, "started_at": NOW, "completed_at": None}
    state.jobs[5] = [job(mixtral, 1, **waiting), job(mixtral, 2, **waiting, run_attempt=2)]
    assert runs.entry_jobs(runs.jobs(client, 5))["mixtral"].attempt == 2


def test_runs_that_ended_or_are_gone_are_not_active(client: Client, state: State) -> None:
    state.runs |= {1: {"status": "in_progress"}, 2: {"status": "completed"}}
    assert [runs.is_active(client, number) for number in (1, 2, 3)] == [True, False, False]
    assert [runs.cancel(client, number) for number in (1, 2)] == [True, False]
    assert state.cancelled == [1]


def test_status_and_check_of_a_failure(client: Client, state: State) -> None:
    results = samples.failing()
    checks.set_status(client, SHA, "failure", "x" * 500, "https://github.com/x")
    checks.write_check(client, results, title="t" * 500, summary="s")
    assert len(state.statuses[0]["description"]) == 140
    (check,) = state.checks
    assert check["conclusion"] == "failure"
    assert len(check["output"]["title"]) == 255
    assert [a["annotation_level"] for a in check["output"]["annotations"]] == ["failure"] * 5


def test_fifty_annotations_at_most(client: Client, state: State) -> None:
    checks.write_check(client, samples.huge(40), title="t", summary="s")
    assert len(state.checks[0]["output"]["annotations"]) == 50


def test_hostile_text_in_annotations(client: Client, state: State) -> None:
    checks.write_check(client, samples.hostile(), title="t", summary="s")
    for annotation in state.checks[0]["output"]["annotations"]:
        assert "\x1b" not in annotation["message"] + annotation["title"]


def test_infrastructure_only_warns(client: Client, state: State) -> None:
    checks.write_check(client, samples.neutral(), title="t", summary="s")
    assert state.checks[0]["conclusion"] == "neutral"
    assert {a["annotation_level"] for a in state.checks[0]["output"]["annotations"]} == {"warning"}


def test_lines_are_appended_and_nothing_else_changes(client: Client, state: State) -> None:
    assert branch.read_files(client, "data", "history") == {}
    branch.append(client, "data", {"history/a.jsonl": "1\n", "other/b": "x"}, "first")
    branch.append(client, "data", {"history/a.jsonl": "2\n", "history/c.jsonl": "3\n"}, "second")
    assert state.files("data") == {"history/a.jsonl": "1\n2\n", "history/c.jsonl": "3\n", "other/b": "x"}
    found = branch.read_files(client, "data", "history", suffix=".jsonl")
    assert found == {"history/a.jsonl": "1\n2\n", "history/c.jsonl": "3\n"}
    assert list(branch.read_files(client, "data", "history", newest=1)) == ["history/c.jsonl"]


def test_a_push_that_came_between_is_not_lost(client: Client, state: State) -> None:
    branch.append(client, "data", {"a": "1\n"}, "first")
    others = iter("23")

    def push(request: Request) -> None:
        """Somebody else's push, just before ours."""
        if request.method == "PATCH" and (line := next(others, None)):
            head = state.refs["heads/data"]
            nodes = dict(state.objects[state.objects[head]["tree"]])
            nodes["a"] = state.put(state.objects[nodes["a"]] + line + "\n")
            state.refs["heads/data"] = state.put({"tree": state.put(nodes), "parents": [head], "message": "theirs"})

    state.before = push
    branch.append(client, "data", {"a": "ours\n"}, "ours")
    assert state.files("data")["a"] == "1\n2\n3\nours\n"


def test_two_that_make_the_branch_at_once(client: Client, state: State) -> None:
    def make(request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/git/refs") and "heads/data" not in state.refs:
            tree = state.put({"a": state.put("theirs\n")})
            state.refs["heads/data"] = state.put({"tree": tree, "parents": [], "message": "theirs"})

    state.before = make
    branch.append(client, "data", {"a": "ours\n"}, "ours")
    assert state.files("data")["a"] == "theirs\nours\n"


def test_a_race_that_never_ends_is_given_up(client: Client, state: State, github: Contract) -> None:
    branch.append(client, "data", {"a": "1\n"}, "first")
    github.fake.faults.append(Fault("PATCH", ".*", 422, times=100))
    with pytest.raises(InfrastructureError, match="pushes in a row came in between"):
        branch.append(client, "data", {"a": "2\n"}, "second")
    assert state.files("data")["a"] == "1\n"


def test_writers_at_once_lose_nothing(api: Api, state: State) -> None:
    def write(number: int) -> None:
        with Client(api) as own:
            branch.append(own, "data", {"a": f"{number}\n"}, "line")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(state.files("data")["a"].split()) == ["0", "1", "2"]


def nightly_results(*bad: str) -> Any:
    plan = samples.plan_of(trigger="schedule", pull_request=None)
    return samples.judged(plan, {f"test_forward_equivalence[{name}]": samples.mismatch() for name in bad})


def apart(history: Baseline) -> Baseline:
    """Every night with a run of its own."""
    records = {
        name: tuple(replace(night, run_url=f"https://github.com/{number}") for number, night in enumerate(known))
        for name, known in history.records.items()
    }
    return replace(history, records=records)


def keep(client: Client, results: Any, *nights: Any) -> str:
    history = apart(samples.nights(results.plan, *nights))
    failing = nightly.streaks(history, make_history_records(results, "2026-09-01T03:17:00Z"))
    return nightly.keep_issue(client, results, failing, bot=BOT)


def test_the_nightly_issue_opens_stays_current_and_closes(client: Client, state: State) -> None:
    fault = {"test_forward_equivalence[smollm2]": samples.mismatch()}
    assert keep(client, nightly_results(), {}) == "nothing to do"
    assert keep(client, nightly_results("smollm2"), {}, {}) == "opened #100"
    assert keep(client, nightly_results("smollm2", "mistral"), {}, fault, fault) == "updated #100"
    (issue,) = state.issues
    rows = [line for line in issue["body"].splitlines() if line.startswith("| `")]
    assert rows[0].startswith("| `smollm2` | 3 | `028877665544`")  # since the second night of three
    assert "`018877665544`" in rows[0]
    assert rows[1].startswith("| `mistral` | 1 |")
    assert "nothing outside of the subject" in rows[0]
    assert keep(client, samples.neutral(), fault) == "nothing to do"
    assert keep(client, nightly_results(), fault) == "closed #100"
    assert state.issues[0]["state"] == "closed"
    assert keep(client, nightly_results("mistral"), {}) == "opened #101"


def test_somebody_elses_issue_is_not_ours(client: Client, state: State) -> None:
    state.issues.append(
        {
            "number": 9,
            "state": "open",
            "title": nightly.TITLE,
            "body": nightly.MARKER,
            "labels": [{"name": nightly.LABEL}],
            "user": {"login": "mallory", "type": "User"},
        }
    )
    ours = {"title": nightly.TITLE, "body": nightly.MARKER, "labels": [{"name": nightly.LABEL}], "user": {"login": BOT}}
    pull = {"url": "https://api.github.com/p/8", "html_url": None, "diff_url": None, "patch_url": None}
    state.issues.append({"number": 8, "state": "open", "pull_request": pull, **ours})
    assert keep(client, nightly_results(), {}) == "nothing to do"
    assert keep(client, nightly_results("smollm2"), {}) == "opened #102"


def test_an_issue_says_what_moved_since_it_was_good() -> None:
    results = nightly_results("smollm2")
    history = apart(samples.nights(results.plan, {}))
    before = {
        name: tuple(replace(record, libraries={"torch": "2.12.0"}, revision="f" * 40) for record in known)
        for name, known in history.records.items()
    }
    failing = nightly.streaks(replace(history, records=before), make_history_records(results, "2026-09-01T03:17:00Z"))
    assert [streak.entry for streak in failing] == ["smollm2"]
    text = nightly.issue_text(results, failing)
    assert "torch 2.12.0 → 2.13.0" in text.replace("`", "")
    assert "Hub revision ffffffffffff → " in text.replace("`", "")
    assert len(text) <= 65536


@pytest.mark.parametrize(("models", "tables"), [(3, "| moved since then |"), (120, "| last good |"), (256, "")])
def test_an_issue_about_many_models_still_fits_and_names_each(models: int, tables: str) -> None:
    results = samples.huge()
    now, then = ({f"library-{n}": digit * 40 for n in range(8)} for digit in "12")
    tonight = [
        replace(record, libraries=now) for record in make_history_records(results, "2026-09-01T03:17:00Z")[:models]
    ]
    failing = [nightly.Streak(record.entry, (record,), replace(record, libraries=then)) for record in tonight]
    text = nightly.issue_text(results, failing)
    assert len(text) <= 65_536
    assert all(f"`{record.entry}`" in text for record in tonight)
    assert "Failed: 256 of 256 models" in text
    assert tables in text
    assert ("| nights |" in text) == bool(tables)
