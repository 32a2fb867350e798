"""Reports as the run of the stand-in's repository wrote them, for the tests of publishing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ci.report.report_files import write_report
from tests.ci.report import samples

if TYPE_CHECKING:
    from pathlib import Path

    from ci.report.results import Results
    from tests.e2e.fake_github import State as GitHub


def write_run_report(results: Results, tmp_path: Path, state: GitHub, **request: Any) -> Path:
    """Write the report of `results` as a run of the stand-in's repository, its pull request at the tested commit."""
    known: dict[str, Any] = {
        "repository": state.repository,
        "subject_repository": state.repository,
        "run_id": 777,
    } | request
    plan = replace(results.plan, request=replace(results.plan.request, **known))
    write_report(replace(results, plan=plan), tmp_path / "report")
    state.pulls[42] = {"state": "open", "sha": samples.SHA, "repository": state.repository}
    return tmp_path / "report"
