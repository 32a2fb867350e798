"""The store's table: reasons are a column of their own, where there are any."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from ci.hub.inventory import StoreEntry
from ci.terminal import make_entries_table

ENTRY = StoreEntry("owner/model", "a" * 40, 2, "/store/x", 5000, "complete", 0.0, in_use=False)


def render(*entries: StoreEntry) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(make_entries_table(entries))
    return captured.get()


def test_reasons_are_shown_where_there_are_any() -> None:
    assert "why" not in render(ENTRY)
    shown = render(ENTRY, replace(ENTRY, state="removed", reason="not used for 3.0 d"))
    assert "why" in shown
    assert "not used for 3.0 d" in shown
