"""The service's verbs on a laptop: exit codes, answers on stdout, refusals on stderr in one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ci.__main__ import main
from ci.github.job_outputs import pack_record
from ci.records import to_json
from tests.ci.report import samples

if TYPE_CHECKING:
    from pathlib import Path

FORWARD = "test_forward_equivalence[smollm2]"
DOWN = samples.Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A plan of one model beside its results, as the artifacts of a run are downloaded."""
    plan = samples.plan_of("smollm2")
    (tmp_path / "plan.json").write_text(to_json(plan))
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(plan))
    return tmp_path


def report(folder: Path, *more: str) -> int:
    words = ["--plan", str(folder / "plan.json"), "--results", str(folder / "results"), "--out", str(folder / "out")]
    return main(["report", *words, *more])


@pytest.mark.parametrize(
    ("fault", "code", "verdict"),
    [({}, 0, "passed"), ({FORWARD: samples.mismatch()}, 1, "failed"), ({FORWARD: DOWN}, 3, "neutral")],
)
def test_a_report_is_made_from_a_folder(
    results: Path, capsys: pytest.CaptureFixture[str], fault: dict[str, samples.Fault | None], code: int, verdict: str
) -> None:
    plan = samples.plan_of("smollm2")
    (results / "results/hub-tests-smollm2.1/junit.xml").write_bytes(samples.junit(plan, fault))
    assert report(results, "--json") == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
    assert {path.name for path in (results / "out").iterdir()} == {"report.md", "report.json", "report.html"}


def test_the_plan_may_come_by_the_environment(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TESTS_PLAN", pack_record(samples.plan_of("smollm2")))
    assert main(["report", "--results", str(results / "results"), "--out", str(results / "out")]) == 0


def test_an_artifact_that_is_missing_is_red(results: Path) -> None:
    (results / "results/hub-tests-smollm2.1/junit.xml").unlink()
    assert report(results) == 1
    (results / "results/hub-tests-smollm2.1").rmdir()
    assert report(results) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--results", "none", "--out", "out"], "no plan: HUB_TESTS_PLAN is empty"),
        (["report", "--plan", "none.json", "--results", "none", "--out", "out"], "none.json: cannot read the plan"),
        (["conclude"], "NEEDS: expected toJSON(needs)"),
        (["publish", "--report", "none"], "there is no report to publish"),
        (["fetch"], "name at least one MODEL to fetch, or use --planned (not both)"),
    ],
)
def test_a_step_without_what_it_needs_is_refused_in_one_line(
    words: list[str], said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HUB_TESTS_PLAN", "NEEDS", "HUB_TESTS_INPUTS", "HUB_TESTS_DELIVERY"):
        monkeypatch.delenv(name, raising=False)
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert err.startswith(f"hub-tests: {said}")
    assert (out, len(err.splitlines())) == ("", 1)


def test_conclude_reads_what_the_jobs_came_to(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = {"plan": "success", "night": "skipped"}
    monkeypatch.setenv("NEEDS", json.dumps({job: {"result": result, "outputs": {}} for job, result in ended.items()}))
    assert main(["conclude"]) == 1
    assert "job 'night' ended as skipped" in capfd.readouterr().err
    assert main(["conclude", "--may-skip", "night"]) == 0
    assert capfd.readouterr().out == "plan: success, night: skipped\n"
