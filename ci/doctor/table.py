"""A Diagnosis as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from ci.report.text_table import Column, FittingTable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ci.doctor.records import Diagnosis

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def render_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """Render the checks as a table, then what to do, then the verdict."""
    rows = [
        (Text(check.name), Text(check.status, STYLES[check.status]), Text(check.value), Text(check.expected))
        for check in diagnosis.checks
    ]
    table = FittingTable((Column("check", whole=True), Column(""), Column("seen"), Column("expected", 1)), rows)
    fixes = [
        Text.assemble((f"{check.name}: ", STYLES[check.status]), check.fix)
        for check in diagnosis.checks
        if check.status in ("fail", "warn") and check.fix
    ]
    title = Text(f"doctor on {diagnosis.host.get('host', 'this host')}", "bold")
    return Group(title, Padding(table, (0, 0, 0, 1)), Text(), *fixes, _render_verdict(diagnosis))


def _render_verdict(diagnosis: Diagnosis) -> Text:
    failed = [check.name for check in diagnosis.checks if check.status == "fail"]
    if diagnosis.fit:
        return Text("This host is fit to run GPU tests.", style=STYLES["ok"])
    return Text(f"This host is not fit to run GPU tests: {', '.join(failed)}.", style=STYLES["fail"])
