"""`hub-tests report`: a plan and a folder of results become a report on disk, on a laptop exactly as in Actions."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.plan import Plan
from ci.records import read_json
from ci.report.collect import collect
from ci.report.history import Baseline, read_history
from ci.report.results import judge_results
from ci.report.write import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.report.results import Job, Problem, Results


def make_report(
    plan: Plan,
    results: Path,
    out: Path,
    *,
    jobs: Mapping[str, Job] | None = None,
    baseline: Baseline | None = None,
    problems: Mapping[str, Problem] | None = None,
) -> Results:
    """Judge what lies in `results` against `plan`, and write the report into `out`."""
    with _no_cycles():
        judged = judge_results(plan, collect(results), jobs, baseline, problems=problems)
        write_report(judged, out)
    return judged


def read_plan(path: Path) -> Plan:
    """The plan that the run was made from. Raises RequestError where the file is none."""
    return read_json(Plan, _bytes(path), what=str(path))


def read_baseline(paths: Sequence[Path]) -> Baseline:
    """The history in the files and folders (`*.jsonl` in each) of `paths`."""
    files = [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    with _no_cycles():
        return read_history([_bytes(file).decode("utf-8", "replace") for file in files])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot read it: {error.strerror}") from None


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Frozen records form no cycles: looking for some after every few hundred of them costs a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
