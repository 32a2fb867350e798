"""The support matrix as Markdown: one table for each format, one row for each model and variant. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.escape import cell as table_cell
from ci.report.escape import code, escape_text, link
from ci.report.support_matrix import ANY_DTYPE
from ci.units import format_share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.report.support_matrix import MatrixCell, SupportMatrix

HEADER = "| model | check | dtype | result | margin | when | subject | versions |\n|---|---|---|---|---|---|---|---|"
LIBRARIES = ("torch", "transformers", "triton")
"""The versions that a row shows; the JSON form has all of them."""
STATES = {"passed": "✅ passed", "failed": "❌ failed", "empty": "empty:"}


def render_support_matrix(matrix: SupportMatrix) -> str:
    """Return the matrix as Markdown; every text of a run is escaped."""
    counted = ", ".join(f"{matrix.count(state)} {state}" for state in ("passed", "failed", "empty"))
    stale = sum(bool(cell.stale) for cell in matrix.cells)
    heading = (
        f"## Support matrix of {code(matrix.subject)}\n\n{counted}; {stale} stale; from {matrix.nights} nights, made "
        f"{escape_text(matrix.made)}. A margin is the used share of its tolerance: 100 % is the limit."
    )
    problems = [f"- history: {escape_text(problem)}" for problem in matrix.problems[:5]]
    tables = [_format_table(name, matrix.cells) for name in matrix.formats]
    return "\n\n".join([heading, *(["\n".join(problems)] if problems else []), *tables]) + "\n"


def _format_table(checkpoint_format: str, cells: Iterable[MatrixCell]) -> str:
    own = [each for each in cells if each.checkpoint_format == checkpoint_format]
    first = {(each.entry, each.headline): each for each in reversed(own)}  # a sentence stands where it is new
    rows = [_format_row(each, each.headline if first[each.entry, each.headline] is each else "") for each in own]
    return f"### {code(checkpoint_format)}\n\n{HEADER}\n" + "\n".join(rows)


def _format_row(cell: MatrixCell, headline: str) -> str:
    result = STATES[cell.state]
    detail = "; ".join(filter(None, [cell.reason, headline, f"stale: {cell.stale}" if cell.stale else ""]))
    dtype = cell.dtype if cell.dtype != ANY_DTYPE else "bit for bit" if cell.check == "export" and cell.date else ""
    versions = " ".join(f"{name} {cell.libraries[name]}" for name in LIBRARIES if name in cell.libraries)
    when = link(cell.date[:10], cell.run_url) if cell.run_url else escape_text(cell.date[:10])
    columns = (
        code(cell.entry) if cell.entry else "",
        escape_text(cell.variant or cell.check),
        escape_text(dtype),
        f"{result} {escape_text(detail)}".strip(),
        format_share(cell.margin) if cell.margin is not None else "",
        when,
        code(cell.sha[:12]) if cell.sha else "",
        escape_text(" on ".join(filter(None, [versions, cell.device]))),
    )
    return "| " + " | ".join(table_cell(column) for column in columns) + " |"
