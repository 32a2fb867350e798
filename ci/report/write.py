"""The report on disk: `report.md`, `report.json`, `report.html`. The room's one place that writes files."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError
from ci.records import read_json
from ci.report import html, markdown
from ci.report.fit import utf8
from ci.report.limits import SUMMARY_BYTES
from ci.report.outcome import Results

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import TypeAdapter

REPORT_JSON = "report.json"
REPORT_MD = "report.md"
REPORT_HTML = "report.html"


def write_report(results: Results, out: Path) -> tuple[Path, ...]:
    """Writes the three files into `out`, each whole or not at all; `report.md` fits into a job summary."""
    contents = {
        REPORT_JSON: _adapter().dump_json(results),
        REPORT_MD: markdown.render(results, SUMMARY_BYTES, size=utf8).encode("utf-8", "replace"),
        REPORT_HTML: html.render(results).encode("utf-8", "replace"),
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
def _adapter() -> TypeAdapter[Results]:
    """pydantic's own writer: `ci.records.to_json` copies every value first, too slow for 25,600 tests."""
    from pydantic import TypeAdapter

    return TypeAdapter(Results)


def read_report(path: Path) -> Results:
    """`report.json` read back, from its file or its folder. Raises RequestError where it is none."""
    path = path / REPORT_JSON if path.is_dir() else path
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot read the report: {error.strerror}") from None
    return read_json(Results, text, what=str(path))
