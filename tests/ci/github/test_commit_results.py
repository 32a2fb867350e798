"""What other runs found at a commit: read from their artifacts, and from nobody else's."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.commit_results import (
    MAX_BYTES,
    RESULT_JSON,
    ModelResult,
    RunResult,
    find_standing,
    make_run_result,
    name_artifact,
    parse_run_result,
    read_commit_results,
)
from ci.hub.slices import Slice
from ci.records import to_json
from tests.ci.github.samples import add_result, job, zipped
from tests.ci.report import samples
from tests.e2e.fake_github import LATE, Fault

if TYPE_CHECKING:
    from ci.github.client import Client
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State

SHA = "a" * 40


def test_every_runs_results_are_read(client: Client, state: State) -> None:
    add_result(state, 5, SHA, mixtral="failed")
    add_result(state, 6, SHA, smollm2="passed")
    add_result(state, 7, "b" * 40, mistral="failed")
    found = read_commit_results(client, SHA)
    assert {(r.run_id, r.model, r.verdict) for r in found.models} == {
        (5, "mixtral", "failed"),
        (6, "smollm2", "passed"),
    }
    assert found.ignored == ()
    assert (found.attempt_of(5), found.attempt_of(99)) == (1, 0)


def test_ones_own_result_is_taken_from_memory(client: Client, state: State) -> None:
    own = add_result(state, 5, SHA, mixtral="failed")
    found = read_commit_results(client, SHA, replace(own, attempt=2))
    assert found.runs == (replace(own, attempt=2),)


@pytest.mark.parametrize(
    ("artifact", "run", "jobs", "reason"),
    [
        ({"head_repository": 1}, {}, [], None),
        ({"expired": True}, {}, [], None),
        ({}, {"event": "pull_request"}, [], "pull_request started the run"),
        ({}, {"event": "push"}, [], "push started the run"),
        ({}, {"path": ".github/workflows/benchmark.yml"}, [], "a run of .github/workflows/benchmark.yml"),
        ({}, {"path": ".github/workflows/not-hub-tests.yml"}, [], "a run of .github/workflows/not-hub-tests.yml"),
        ({"created_at": "2026-01-08T00:00:00Z"}, {}, [], "no report job was running"),
        ({}, {}, [job("run / test mixtral", completed_at=LATE)], "while 'test mixtral' was running"),
        ({}, {}, [job("test mixtral", completed_at=None, status="in_progress")], "while 'test mixtral' was running"),
        ({"created_at": None}, {}, [job("test mixtral")], "while 'test mixtral' was running"),
    ],
    ids=[
        "fork",
        "expired",
        "pull_request",
        "push",
        "another workflow",
        "a similar name",
        "too early",
        "test job",
        "test job now",
        "in doubt",
    ],
)
def test_a_stranger_cannot_add_a_result(
    client: Client, state: State, artifact: Any, run: Any, jobs: Any, reason: str | None
) -> None:
    add_result(state, 5, SHA, mixtral="passed")
    state.artifacts[0] |= artifact
    state.runs[5] |= run
    state.jobs[5] += jobs
    found = read_commit_results(client, SHA)
    assert found.runs == ()
    assert len(found.ignored) == (reason is not None)
    assert (reason or "") in "".join(found.ignored)


def test_a_callers_workflow_calls_ours(client: Client, state: State) -> None:
    add_result(state, 5, SHA, mixtral="failed")
    called = {"path": f"OWNER/hub-tests/.github/workflows/hub-tests.yml@{SHA}", "sha": SHA}
    state.runs[5] |= {"path": ".github/workflows/caller.yml", "referenced_workflows": [called]}
    assert len(read_commit_results(client, SHA).runs) == 1


@pytest.mark.parametrize("content", [b"not a zip", b"x" * (MAX_BYTES + 1)])
def test_a_result_that_cannot_be_read_is_a_problem(client: Client, state: State, content: bytes) -> None:
    add_result(state, 5, SHA, mixtral="failed")
    add_result(state, 6, SHA, smollm2="passed")
    state.artifacts[0]["content"] = content
    found = read_commit_results(client, SHA)
    assert [run.run_id for run in found.runs] == [6]
    assert "results of run 5" in found.problems[0]


def test_what_github_cannot_say_now_is_no_empty_answer(client: Client, state: State, github: Contract) -> None:
    add_result(state, 5, SHA, mixtral="failed")
    for path in (".*/actions/artifacts", ".*/actions/artifacts/1/zip", ".*/actions/runs/5"):
        github.fake.faults[:] = [Fault("GET", path, 503, times=9)]
        with pytest.raises(InfrastructureError):
            read_commit_results(client, SHA)


@pytest.mark.parametrize(
    "change",
    [
        {"sha": "b" * 40},
        {"run_id": 6},
        {"models": [{"model": "mixtral", "verdict": "passed", "run_id": 9}]},
        {"models": [{"model": "mixtral", "verdict": "splendid", "run_id": 5}]},
        {"models": "all"},
        {"extra": 1},
    ],
)
def test_a_record_about_something_else_is_refused(change: dict[str, Any]) -> None:
    known = RunResult(SHA, 5, 1, (ModelResult("mixtral", "passed", run_id=5),))
    assert parse_run_result(zipped(to_json(known)), SHA, 5) == known
    with pytest.raises(RequestError):
        parse_run_result(zipped(json.dumps(json.loads(to_json(known)) | change)), SHA, 5)


def test_a_bomb_is_not_unpacked() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(RESULT_JSON, b"0" * (MAX_BYTES * 50))
    with pytest.raises(RequestError, match="more than"):
        parse_run_result(packed.getvalue(), SHA, 5)


def test_a_report_becomes_results_by_model() -> None:
    made = make_run_result(samples.failing(), 2, "2026-01-02T03:04:05Z")
    assert [(r.model, r.verdict) for r in made.models] == [
        ("smollm2", "failed"),
        ("mistral", "failed"),
        ("mixtral", "failed"),
    ]
    assert made.sha == samples.SHA
    assert "rotary" in made.models[0].headline
    assert name_artifact(made.sha) == f"result-of-hub-tests-{samples.SHA}"


def result(model: str = "mixtral", started: int = 1, **changes: Any) -> ModelResult:
    return replace(ModelResult(model, "passed", run_id=started, started=f"2026-01-0{started}T00:00:00Z"), **changes)


@pytest.mark.parametrize(
    ("older", "newer", "replaces"),
    [
        (result(), result(started=2), True),
        (result(), result("mistral", 2), False),
        (result(layers=4), result(started=2), False),
        (result(), result(started=2, layers=1), False),
        (result(layers=(0, 3)), result(started=2, layers=(0, 3)), True),
        (result(layers=2), result(started=2, layers=(0, 1)), False),
        (result(), result(started=2, slice=Slice(4096)), False),
        (result(slice=Slice(4096)), result(started=2), False),
        (result(slice=Slice(4096)), result(started=2, slice=Slice(4096, 4)), False),
        (result(slice=Slice(4096)), result(started=2, slice=Slice(4096)), True),
        (result(deep=True), result(started=2), False),
        (result(), result(started=2, deep=True), True),
        (result(consumer="vllm"), result(started=2), False),
        (result(consumer="vllm"), result(started=2, consumer="transformers"), False),
        (result(), result(started=2, consumer="vllm"), True),
    ],
)
def test_a_newer_result_replaces_only_what_it_covers(older: ModelResult, newer: ModelResult, replaces: bool) -> None:
    for order in ((older, newer), (newer, older)):
        assert find_standing(order) == ((newer,) if replaces else (older, newer))
