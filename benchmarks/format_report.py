"""What a run over every format leaves: the table of companions, a history of one night, and the matrix's pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci.models import load_models
from ci.records import to_json
from ci.report.companion_tables import build_companion_tables
from ci.report.dashboard import render_pages
from ci.report.history import make_history_records, read_history
from ci.report.report_files import REPORT_JSON, read_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ci.report.companion_tables import CompanionTable
    from ci.report.results import Results

HISTORY, PAGES = "history.jsonl", "pages"
HEAD = "| format | models | beside the weights | defects and findings |\n|---|---|---|---|"
GRAVE = ("defect", "finding")


def read_reports(folder: Path) -> list[Results]:
    """Read the report of each run below `folder`."""
    return [read_report(path.parent) for path in sorted(folder.glob(f"report*/{REPORT_JSON}"))]


def show_companions(reports: Sequence[Results]) -> str:
    """Return, as a Markdown table, what each format's exports lose or change beside their weights."""
    tables = [table for report in reports for table in build_companion_tables(report)]
    return "\n".join([HEAD, *map(_show_table, tables)])


def _show_table(table: CompanionTable) -> str:
    columns = (table.checkpoint_format, ", ".join(table.models), table.summary, "<br>".join(_list_grave(table)))
    return "| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |"


def _list_grave(table: CompanionTable) -> Iterator[str]:
    """Yield one line for each part that lost something: `config.json: eos_token_id changed, …`."""
    parts: dict[str, dict[str, list[str]]] = {}
    for row in table.rows:
        if row.companion.judgement in GRAVE:
            said = parts.setdefault(row.companion.part, {})
            said.setdefault(f"{row.companion.name} {row.companion.fate}", []).extend(row.models)
    for part, said in parts.items():
        named = (f"{text}{_name_models(models, table.models)}" for text, models in said.items())
        yield f"{part}: {', '.join(named)}"


def _name_models(models: Sequence[str], of_format: Sequence[str]) -> str:
    """Return the models that a loss concerns in brackets, nothing for all of a format's."""
    return "" if set(models) == set(of_format) else f" ({', '.join(dict.fromkeys(models))})"


def write_pages(reports: Sequence[Results], folder: Path, registry: Path) -> Path:
    """Write the run as the only night of a history, and its dashboard and support matrix; return their directory."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [to_json(record) for report in reports for record in make_history_records(report, made)]
    (folder / HISTORY).write_text("\n".join(lines) + "\n", encoding="utf-8")
    pages = folder / PAGES
    pages.mkdir(exist_ok=True)
    models = load_models(registry).values()
    for name, page in render_pages(read_history(["\n".join(lines)]), models, "fast_llm", made=made).items():
        (pages / name).write_text(page, encoding="utf-8")
    return pages
