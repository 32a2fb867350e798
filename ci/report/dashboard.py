"""The history of nights → `index.html` of the data branch: one static page, which GitHub Pages can serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from markupsafe import Markup

from ci.evidence import format_share
from ci.report import wording
from ci.report.escape import is_safe_url
from ci.report.night_charts import draw_margins, draw_strip
from ci.report.nights import ModelNights, list_findings, list_models
from ci.report.page_parts import load_parts, make_environment, mark_safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.history import Baseline

DASHBOARD = "index.html"
CHECKS = {"forward": 0, "variant": 1, "export": 2}
CHANGES = 12
"""Nights with changes that are listed for each model."""


class MatrixCell(Protocol):
    """One cell of the support matrix, as the page shows it."""

    @property
    def checkpoint_format(self) -> str:
        """The format of the row."""
        ...

    @property
    def entry(self) -> str:
        """The registry's name, "" for a format without a model."""
        ...

    @property
    def check(self) -> str:
        """Forward, variant or export."""
        ...

    @property
    def variant(self) -> str:
        """The variant `axis=name`, "" for the default."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype, "" where there is none."""
        ...

    @property
    def state(self) -> str:
        """Passed, failed or empty."""
        ...

    @property
    def margin(self) -> float | None:
        """The largest used share of a tolerance."""
        ...

    @property
    def date(self) -> str:
        """The night's date."""
        ...

    @property
    def reason(self) -> str:
        """Why it is empty, or how it failed."""
        ...

    @property
    def stale(self) -> str:
        """Why it is old."""
        ...


class Matrix(Protocol):
    """A support matrix: cells of one subject."""

    @property
    def subject(self) -> str:
        """The subject's name."""
        ...

    @property
    def cells(self) -> Sequence[MatrixCell]:
        """All cells."""
        ...


@dataclass(frozen=True)
class MatrixRow:
    """One model of the matrix: its cells by column."""

    checkpoint_format: str
    entry: str
    cells: tuple[MatrixCell | None, ...]
    note: str = ""


@dataclass(frozen=True)
class MatrixTable:
    """The matrix as a table; `columns` are (check and variant, dtype)."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class ModelCard:
    """One model on the page."""

    index: int
    model: ModelNights
    strip: Markup
    margins: Markup


def render_dashboard(history: Baseline, *, made: str, repository_url: str = "", matrix: Matrix | None = None) -> str:
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


def render_matrix(matrix: Matrix, *, made: str) -> str:
    """Render the support matrix as a page of its own."""
    return _render("matrix.html.j2", made=made, table=make_matrix_table(matrix), subject=matrix.subject)


def make_matrix_table(matrix: Matrix) -> MatrixTable:
    """Make the table: one row for each model, one column for each check, variant and dtype that any model has."""
    known = sorted((cell for cell in matrix.cells if cell.entry), key=lambda cell: CHECKS.get(cell.check, 9))
    names = list(dict.fromkeys(_name_check(cell) for cell in known))
    pairs = dict.fromkeys((_name_check(cell), cell.dtype) for cell in known)
    columns = tuple(sorted(pairs, key=lambda pair: names.index(pair[0])))
    rows: dict[tuple[str, str], dict[tuple[str, str], MatrixCell]] = {}
    for cell in matrix.cells:
        rows.setdefault((cell.checkpoint_format, cell.entry), {})[_name_check(cell), cell.dtype] = cell
    return MatrixTable(
        columns,
        tuple(
            MatrixRow(
                name,
                entry,
                tuple(cells.get(column) for column in columns),
                "" if entry else next(iter(cells.values())).reason,
            )
            for (name, entry), cells in rows.items()
        ),
    )


def _name_check(cell: MatrixCell) -> str:
    return cell.variant.replace("=", " ") if cell.check == "variant" else cell.check


def _render(template: str, **values: object) -> str:
    return (
        make_environment()
        .get_template(template)
        .render(
            parts=load_parts(),
            format_share=format_share,
            format_duration=wording.format_duration,
            pluralize=wording.pluralize,
            signs=wording.SIGNS,
            is_safe_url=is_safe_url,
            **values,
        )
    )
