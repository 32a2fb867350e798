from __future__ import annotations

from typing import TYPE_CHECKING

from ci.verbs.publish import publish_report
from ci.verbs.report import report_digest
from tests.ci.report import samples
from tests.ci.verbs.reports import write_run_report

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from tests.e2e.fake_github import State as GitHub


def test_a_night_leaves_an_issue_and_history(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.failing(), tmp_path, state, trigger="schedule", pull_request=None)
    done = publish_report(report, context, where="night", sha256=report_digest(report))
    assert [one.problem for one in done] == ["", ""]
    assert done[0].done == "opened #100"
    files = state.files("hub-tests-data")
    (lines,) = (text for path, text in files.items() if path.startswith("history/"))
    assert len(lines.splitlines()) == 3
    assert set(files) - {path for path in files if path.startswith("history/")} == PAGES
    assert "3 of 3 models fail" in files["index.html"]
    assert "the rotary embedding is wrong" in files["index.html"], "tonight is in the dashboard of tonight"
    (issue,) = state.issues
    assert "[dashboard](https://" in issue["body"]
    again = publish_report(report, context, where="night")
    assert [one.problem for one in again] == ["", ""]
    assert "1 night" in state.files("hub-tests-data")["index.html"], "a second attempt is the same night"


PAGES = {"index.html", "matrix.html", ".nojekyll"}


def test_results_with_the_newest_versions_reach_the_issue_and_nothing_else(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    report = write_run_report(samples.passing(), tmp_path, state, trigger="schedule", pull_request=None)
    plan = samples.plan_of(trigger="schedule", pull_request=None)
    for entry in plan.entries:
        folder = tmp_path / f"upstream/upstream-of-hub-tests-{entry.name}.1"
        folder.mkdir(parents=True)
        fault = {f"test_forward_equivalence[{entry.name}]": samples.mismatch()} if entry.name == "mistral" else {}
        (folder / "junit.xml").write_bytes(samples.junit(samples.plan_of(entry.name), fault))
    done = publish_report(report, context, where="night", upstream=tmp_path / "upstream")
    assert [one.problem for one in done] == ["", ""]
    assert done[0].done == "opened #100"
    assert "1 of 3 fail: `mistral`" in state.issues[0]["body"]
    (lines,) = (text for path, text in state.files("hub-tests-data").items() if path.startswith("history/"))
    assert '"failed"' not in lines  # the history is of the environment that counts
    assert state.statuses == state.comments == []


def test_newest_versions_without_any_result_open_no_issue(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.passing(), tmp_path, state, trigger="schedule", pull_request=None)
    done = publish_report(report, context, where="night", upstream=tmp_path / "nothing")
    assert (done[0].problem, done[0].done) == ("", "nothing to do")
    assert state.issues == []
