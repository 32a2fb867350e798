"""The history of nights → `index.html` of the data branch: one static page, which GitHub Pages can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from ci.errors import RequestError
from ci.report.escape import is_safe_url
from ci.report.labels import SIGNS
from ci.report.night_charts import draw_margins, draw_strip
from ci.report.nights import ModelNights, list_findings, list_models
from ci.report.number_format import format_duration, pluralize
from ci.report.page_parts import load_parts, make_environment, mark_safe
from ci.report.support_matrix import ANY_DTYPE, DEEP_ONLY, MatrixCell, SupportMatrix, build_support_matrix
from ci.report.support_matrix_markdown import LIBRARIES
from ci.units import format_share

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ci.models import HubModel
    from ci.report.history import Baseline

DASHBOARD, MATRIX = "index.html", "matrix.html"
CHECKS = {"forward": 0, "variant": 1, "export": 2}
FEW_COLUMNS = 3
"""Columns without any result that are shown all the same; more of one reason are one sentence."""
CHANGES = 12
"""Nights with changes that are listed for each model."""


@dataclass(frozen=True)
class MatrixRow:
    """One model of the matrix: its cells by column, and over how many columns each of them reaches.

    A cell that speaks of a whole check reaches over its dtypes; those columns have None, and 0 of `spans`. A `note` is
    in place of all cells, where none has a result and one reason holds for all. `finding` is the first sentence of
    what failed. `night` is one cell of the night that most of its cells are of: those name no other one. None without
    a result.
    """

    checkpoint_format: str
    entry: str
    cells: tuple[MatrixCell | None, ...]
    spans: tuple[int, ...] = ()
    note: str = ""
    finding: str = ""
    night: MatrixCell | None = None


@dataclass(frozen=True)
class MatrixTable:
    """The matrix as a table; `columns` are (check and variant, dtype).

    `untested` are the names of columns that no model has a result in, by the reason that they share.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[MatrixRow, ...]
    untested: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard:
    """One model on the page."""

    index: int
    model: ModelNights
    strip: Markup
    margins: Markup


def render_pages(
    history: Baseline, models: Iterable[HubModel], subject: str, *, made: str, repository_url: str = ""
) -> dict[str, str]:
    """Render both pages, by the name of their file; the dashboard alone for a subject that is not known here."""
    try:
        matrix = build_support_matrix(models, history, subject, made)
    except RequestError:
        matrix = None
    pages = {DASHBOARD: render_dashboard(history, made=made, repository_url=repository_url, matrix=matrix)}
    return {**pages, MATRIX: render_matrix(matrix, made=made)} if matrix else pages


def render_dashboard(
    history: Baseline, *, made: str, repository_url: str = "", matrix: SupportMatrix | None = None
) -> str:
    """Render the page as text. `made` is UTC, ISO 8601; `matrix` None leaves the support matrix out."""
    models = list_models(history)
    cards = [
        ModelCard(index, model, mark_safe(draw_strip(model.nights)), mark_safe(draw_margins(model.nights)))
        for index, model in enumerate(models)
    ]
    return _render(
        "dashboard.html.j2",
        made=made,
        cards=cards,
        findings=list_findings(history),
        problems=history.problems[:20],
        nights=max((len(model.nights) for model in models), default=0),
        repository_url=repository_url if is_safe_url(repository_url) else "",
        table=make_matrix_table(matrix) if matrix else None,
        subject=matrix.subject if matrix else "",
        changes_shown=CHANGES,
    )


def render_matrix(matrix: SupportMatrix, *, made: str) -> str:
    """Render the support matrix as a page of its own."""
    return _render("matrix.html.j2", made=made, table=make_matrix_table(matrix), subject=matrix.subject)


def make_matrix_table(matrix: SupportMatrix) -> MatrixTable:
    """Make the table: one row for each model, one column for each check, variant and dtype that any model has."""
    rows: dict[tuple[str, str], list[MatrixCell]] = {}
    for cell in matrix.cells:
        rows.setdefault((cell.checkpoint_format, cell.entry), []).append(cell)
    notes = {names: note for names, cells in rows.items() if (note := _find_common_reason(cells))}
    known = [cell for names, cells in rows.items() if names not in notes for cell in cells]
    untested = _find_untested(known)
    columns = _list_columns(known, {name for names in untested.values() for name in names})
    made = (_make_row(names, cells, columns, notes.get(names, "")) for names, cells in rows.items())
    return MatrixTable(columns, tuple(made), untested)


def _find_common_reason(cells: Sequence[MatrixCell]) -> str:
    """Return the reason for which none of a model's cells has a result; "" where one has, or reasons differ.

    What is tested with `--deep` only says that of itself, and has no say.
    """
    said = {(cell.reason, cell.headline) for cell in cells if cell.reason != DEEP_ONLY or cell.state != "empty"}
    if len(said) != 1 or any(cell.state != "empty" for cell in cells):
        return ""
    return ": ".join(filter(None, said.pop()))


def _list_columns(cells: Sequence[MatrixCell], folded: Collection[str]) -> tuple[tuple[str, str], ...]:
    """List (check and variant, dtype), ordered by check; a check without a dtype has a column only where none has."""
    ordered = sorted(cells, key=lambda cell: CHECKS.get(cell.check, 9))
    names = list(dict.fromkeys(map(_name_check, ordered)))
    pairs = dict.fromkeys((_name_check(cell), cell.dtype) for cell in ordered)
    typed = {name for name, dtype in pairs if dtype != ANY_DTYPE}
    shown = (pair for pair in pairs if pair[0] not in folded and not (pair[1] == ANY_DTYPE and pair[0] in typed))
    return tuple(sorted(shown, key=lambda pair: names.index(pair[0])))


def _find_untested(cells: Sequence[MatrixCell]) -> dict[str, tuple[str, ...]]:
    """Group, by their reason, the checks that are empty for every model; a few of one reason stay columns."""
    reasons: dict[str, set[str]] = {}
    for cell in cells:  # of models that have a result at all
        reasons.setdefault(_name_check(cell), set()).add(cell.reason if cell.state == "empty" else "")
    by_reason: dict[str, list[str]] = {}
    for name, said in reasons.items():
        if len(said) == 1 and "" not in said:
            by_reason.setdefault(said.pop(), []).append(name)
    return {reason: tuple(names) for reason, names in by_reason.items() if len(names) > FEW_COLUMNS}


def _make_row(
    names: tuple[str, str], cells: Sequence[MatrixCell], columns: Sequence[tuple[str, str]], note: str
) -> MatrixRow:
    if note:
        return MatrixRow(*names, (), note=note)
    known = {(_name_check(cell), cell.dtype): cell for cell in cells}
    shown, spans = list[MatrixCell | None](), list[int]()
    for at, (name, dtype) in enumerate(columns):
        whole = known.get((name, ANY_DTYPE)) if dtype != ANY_DTYPE else None
        first = at == 0 or columns[at - 1][0] != name
        shown.append((whole if first else None) if whole else known.get((name, dtype)))
        spans.append((sum(one == name for one, _ in columns) if first else 0) if whole else 1)
    failed = next((cell.headline for cell in shown if cell and cell.state == "failed" and cell.headline), "")
    night = _find_common_night([cell for cell in shown if cell])
    return MatrixRow(*names, tuple(shown), tuple(spans), finding=failed, night=night)


def _find_common_night(cells: Sequence[MatrixCell]) -> MatrixCell | None:
    """Return a cell of the night that most of them are of."""
    nights = [describe_night(cell) for cell in cells if cell.state != "empty"]
    common = max(nights, key=nights.count, default="")
    return next((cell for cell in cells if cell.state != "empty" and describe_night(cell) == common), None)


def describe_night(cell: MatrixCell) -> str:
    """Describe when and with what a cell was measured: date, commit, device, versions; "" for an empty one."""
    if cell.state == "empty":
        return ""
    versions = ", ".join(f"{name} {cell.libraries[name]}" for name in LIBRARIES if name in cell.libraries)
    return " · ".join(filter(None, [cell.date[:10], cell.sha[:7], cell.device, versions]))


def _name_check(cell: MatrixCell) -> str:
    return cell.variant.replace("=", " ") if cell.check == "variant" else cell.check


def _render(template: str, **values: object) -> str:
    return (
        make_environment()
        .get_template(template)
        .render(
            parts=load_parts(),
            format_share=format_share,
            format_duration=format_duration,
            pluralize=pluralize,
            signs=SIGNS,
            describe_night=describe_night,
            is_safe_url=is_safe_url,
            **values,
        )
    )
