"""Write and read the report on disk: `report.md`, `report.json`, `report.html`."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError
from ci.plan import announce_adapter
from ci.records import read_json
from ci.report.html_page import render_html
from ci.report.limits import SUMMARY_BYTES
from ci.report.markdown import render_markdown
from ci.report.results import Results
from ci.report.truncate_markdown import count_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import TypeAdapter

REPORT_JSON = "report.json"
REPORT_MD = "report.md"
REPORT_HTML = "report.html"


def write_report(results: Results, out: Path) -> tuple[Path, ...]:
    """Write the three files into `out`, each complete or not at all.

    `report.md` is small enough for a job summary.
    """
    contents = {
        REPORT_JSON: _make_adapter().dump_json(results),
        REPORT_MD: render_markdown(results, SUMMARY_BYTES, size=count_bytes).encode("utf-8", "replace"),
        REPORT_HTML: render_html(results, datetime.now(UTC).isoformat()).encode("utf-8", "replace"),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            part = out / f".{name}.part"
            part.write_bytes(content)
            part.replace(out / name)
    except OSError as error:
        raise InfrastructureError(f"{out}: cannot write the report: {error.strerror}") from None
    return tuple(out / name for name in contents)


@cache
def _make_adapter() -> TypeAdapter[Results]:
    """Return pydantic's own writer. `ci.records.to_json` copies every value first: too slow for 25,600 tests."""
    from pydantic import TypeAdapter

    return TypeAdapter(Results)


def read_report(path: Path) -> Results:
    """Read `report.json` from its file or its folder. Raises RequestError if it is not a report."""
    path = path / REPORT_JSON if path.is_dir() else path
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot read the report: {error.strerror}") from None
    results = read_json(Results, text, what=str(path))
    announce_adapter(results.plan.adapter)
    return results
