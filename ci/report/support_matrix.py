"""The support matrix: format by model by dtype by variant and export, from the history of nights alone. Pure.

A cell is the newest night in which its test passed or failed; a cell without one says why it is empty. Nothing in the
matrix is written by hand: the rows are those of the registry and of what the subject offers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.layouts import LAYOUT_AXIS
from ci.models import HubModel
from ci.report.history import Baseline
from ci.report.labels import CLASSES, OUTCOMES
from ci.subjects.registry import find_offer
from ci.suite.tests import list_variant_tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ci.report.history import HistoryCase, HistoryRecord
    from ci.subjects.base import Variant

STALE_DAYS = 8
"""Days after which a cell is stale: a week of nights, and one night that was late."""
DOWNLOAD, FORWARD, EXPORT = "test_download_and_truncate", "test_forward_equivalence", "test_hub_model_conversion"
ANY_DTYPE = ""
"""The dtype of a cell whose night did not record its margins by dtype, and of an export, which is compared in bits."""
DEEP_ONLY = "tested with --deep only"
REFUSED = "refused"
NO_ENTRY = "no model of this format is in the registry"

CellState = Literal["passed", "failed", "empty"]
Check = Literal["forward", "variant", "export"]


@dataclass(frozen=True)
class MatrixCell:
    """One cell. `margin` is the largest used share of a tolerance (1.0: the limit), None where none was measured.

    `entry` is the registry's name, "" for a format without one. `variant` is `axis=name`, "" for the default. `sha` is
    the subject's commit, `date` UTC in ISO 8601, `libraries` the subject's versions, `oracle` Hugging Face's dtype and
    version. `reason` says why the cell is empty, or how the test failed, and `headline` in a sentence what failed, here
    or earlier; `stale` why its result is old, "" if it is not.
    """

    checkpoint_format: str
    entry: str
    model_id: str
    check: Check
    variant: str = ""
    dtype: str = ANY_DTYPE
    state: CellState = "empty"
    margin: float | None = None
    date: str = ""
    sha: str = ""
    run_url: str = ""
    device: str = ""
    revision: str = ""
    layers: int = 0
    libraries: Mapping[str, str] = field(default_factory=dict)
    oracle: str = ""
    reason: str = ""
    stale: str = ""
    headline: str = ""


@dataclass(frozen=True)
class SupportMatrix:
    """Every cell of one subject, in the order of its formats and of the registry. `made` is UTC, ISO 8601."""

    subject: str
    made: str
    cells: tuple[MatrixCell, ...]
    nights: int = 0
    problems: tuple[str, ...] = ()
    schema: int = 1

    @property
    def formats(self) -> tuple[str, ...]:
        """The checkpoint formats, in order."""
        return tuple(dict.fromkeys(cell.checkpoint_format for cell in self.cells))

    def count(self, state: CellState) -> int:
        """Return how many cells are in a state."""
        return sum(cell.state == state for cell in self.cells)


def build_support_matrix(
    models: Iterable[HubModel], history: Baseline, subject: str, now: str, *, stale_days: int = STALE_DAYS
) -> SupportMatrix:
    """Build the matrix of a subject from all nights; `now` is UTC, ISO 8601.

    Raises RequestError for an unknown subject, or for a date that is none.
    """
    formats: tuple[str, ...] = find_offer(subject).formats
    by_format: dict[str, list[HubModel]] = {}
    for model in models:
        by_format.setdefault(model.checkpoint_format, []).append(model)
    cells: list[MatrixCell] = []
    for name in dict.fromkeys((*formats, *by_format)):
        entries = by_format.get(name, [])
        for model in entries:
            cells += _Row(model, subject, history, _parse_date(now), stale_days).list_cells()
        if not entries:
            cells.append(MatrixCell(name, "", "", "forward", reason=NO_ENTRY))
    nights = {record.date[:10] for records in history.records.values() for record in records}
    return SupportMatrix(subject, now, tuple(cells), len(nights), history.problems)


def _fill_cell(cell: MatrixCell, record: HistoryRecord) -> MatrixCell:
    """Return a passed cell with what a night's record says of its run."""
    return replace(
        cell,
        state="passed",
        date=record.date,
        sha=record.sha,
        run_url=record.run_url,
        device=record.device,
        revision=record.revision,
        layers=record.layers,
        libraries=record.libraries,
        oracle=record.oracle,
    )


@dataclass(frozen=True)
class _Row:
    """The cells of one entry."""

    model: HubModel
    subject: str
    history: Baseline
    now: datetime
    stale_days: int

    def list_cells(self) -> Iterator[MatrixCell]:
        """Yield the default's forward pass by dtype, each variant's, then the export."""
        yield from self._list_dtypes(f"{FORWARD}[{self.model.name}]", "forward", None)
        for test, variant in list_variant_tests(self.subject, self.model.name, self.model.checkpoint_format).items():
            yield from self._list_dtypes(test, "variant", variant)
        yield from self._list_dtypes(f"{EXPORT}[{self.model.name}]", "export", None)

    def _list_dtypes(self, test: str, check: Check, variant: Variant | None) -> Iterator[MatrixCell]:
        empty = MatrixCell(
            self.model.checkpoint_format,
            self.model.name,
            self.model.model_id,
            check,
            f"{variant.axis}={variant.name}" if variant else "",
        )
        found = self._find_night(test)
        if found is None:
            reason, headline = self._explain_empty(test, variant)
            yield replace(empty, reason=reason, headline=headline)
            return
        record, case = found
        tested = replace(_fill_cell(empty, record), stale=self._explain_stale(record, test))
        margins = case.margins if check != "export" and case.margins else {ANY_DTYPE: case.used}
        wrong = {dtype for dtype, margin in margins.items() if margin is None or margin > 1} or set(margins)
        for dtype, margin in margins.items():
            cell = replace(tested, dtype=dtype, margin=margin)
            if case.outcome == "failed" and dtype in wrong:
                cell = replace(cell, state="failed", reason=_name_class(case), headline=case.headline)
            yield cell

    @property
    def _records(self) -> list[HistoryRecord]:
        """The nights of this entry with this subject, newest first; those of another model or part are not its own."""
        known = self.history.records.get(self.model.name, ())
        own = (("", self.subject), ("", self.model.model_id))
        same = (r for r in reversed(known) if r.subset == self.model.subset)
        return [r for r in same if r.subject in own[0] and r.model_id in own[1]]

    def _find_night(self, test: str) -> tuple[HistoryRecord, HistoryCase] | None:
        for record in self._records:
            for case in record.cases:
                if case.name == test and case.outcome in ("passed", "failed"):
                    return record, case
        return None

    def _explain_empty(self, test: str, variant: Variant | None) -> tuple[str, str]:
        """Say why no night has a result of this test, and what failed instead; the newest night answers."""
        newest = next(iter(self._records), None)
        if newest is None:
            return "never tested", ""
        cases = {case.name: case for case in newest.cases}
        fetched, case = cases.get(f"{DOWNLOAD}[{self.model.name}]"), cases.get(test)
        if fetched is not None and fetched.outcome not in ("passed", "did_not_run"):
            return _name_class(fetched), fetched.headline
        if case is None:
            return DEEP_ONLY if variant and variant.axis == LAYOUT_AXIS else "not tested since it is planned", ""
        if case.outcome == "did_not_run":
            return f"needs {variant.needs}" if variant and variant.needs else "the subject does not run it here", ""
        if case.outcome == "consequence":
            return _describe_cause(newest.cases)
        return _name_class(case), case.headline

    def _explain_stale(self, record: HistoryRecord, test: str) -> str:
        age = self.now - _parse_date(record.date)
        if age > timedelta(days=self.stale_days):
            return f"{age.days} days old"
        newest = next(iter(self._records), record)
        if newest is not record:
            case = next((case for case in newest.cases if case.name == test), None)
            said = _name_class(case) if case and case.failure_class else "no result"
            return f"the night of {newest.date[:10]} says: {said}"
        return ""


def _describe_cause(cases: Sequence[HistoryCase]) -> tuple[str, str]:
    """Return why a test did not run after another one failed: the reason, and the sentence of that one."""
    failed = next((case for case in cases if case.outcome == "failed"), None)
    refused = next((case for case in cases if case.outcome == REFUSED), None)
    if failed is None and refused is not None:
        return f"{OUTCOMES[REFUSED]}: {refused.headline}" if refused.headline else OUTCOMES[REFUSED], ""
    if failed is None or (failed.headline and failed.failure_class in (None, "other")):
        return "an earlier test failed", failed.headline if failed else ""
    return f"an earlier test failed: {_name_class(failed)}", failed.headline


def _name_class(case: HistoryCase) -> str:
    """Return a test's failure class in words; a class of another version stays as it is."""
    return str({**CLASSES}.get(case.failure_class or "other", case.failure_class))


def _parse_date(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"support matrix: {text[:40]!r} is not a date like 2026-11-27T00:00:00Z") from None
    return moment.replace(tzinfo=None)
