"""The one issue about the nightly run: opened at the first failure, kept current, closed when green.

Its text is pure: the history with tonight in it, one row a failing entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.report.escape import cell, code, escape_text, link
from ci.report.history import HistoryRecord
from ci.report.limits import COMMENT_CHARS
from ci.report.markdown import render_markdown
from ci.report.truncate_markdown import count_characters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.client import Client
    from ci.report.history import Baseline
    from ci.report.results import Results

MARKER = "<!-- hub-tests:nightly -->"
TITLE = "hub-tests: the nightly run fails"
LABEL = "hub-tests"
TABLE_CHARS = 24_000
"""What the table of failing models may take of the issue's body."""


@dataclass(frozen=True)
class Streak:
    """How long an entry has been failing: `bad` oldest first and tonight last, `good` the last night that passed."""

    entry: str
    bad: tuple[HistoryRecord, ...]
    good: HistoryRecord | None


@dataclass(frozen=True)
class Issue:
    """An issue as the API lists it; pull requests are listed too, with `pull_request` set."""

    number: int
    state: str
    html_url: str = ""
    body: str | None = None
    pull_request: Mapping[str, object] | None = None


def streaks(baseline: Baseline, tonight: Sequence[HistoryRecord]) -> tuple[Streak, ...]:
    """The entries that fail tonight, each with the conclusive nights since it last passed."""
    found = []
    for record in tonight:
        if record.verdict != "failed":
            continue
        known = baseline.records.get(record.entry, ())
        earlier = [night for night in known if night.verdict != "neutral" and night.run_url != record.run_url]
        passed = [index for index, night in enumerate(earlier) if night.verdict == "passed"]
        since = passed[-1] + 1 if passed else 0
        found.append(Streak(record.entry, (*earlier[since:], record), earlier[passed[-1]] if passed else None))
    return tuple(found)


def issue_text(results: Results, failing: Sequence[Streak]) -> str:
    """The issue's body: who fails since when, what moved since it last passed, and tonight's report.

    Where many fail, what moved is left out, and then all but the names.
    """
    top = f"{MARKER}\nThis issue is kept by hub-tests: it is closed by the first night that passes.\n\n"
    tables = (_table(failing, moved=True), _table(failing, moved=False), ", ".join(code(s.entry) for s in failing))
    table = next((text for text in tables if count_characters(text) <= TABLE_CHARS), tables[-1])
    head = f"{top}{table}\n\n"
    return head + render_markdown(results, COMMENT_CHARS - count_characters(head) - 100)


def _table(failing: Sequence[Streak], *, moved: bool) -> str:
    names = ["model", "nights", "first bad", "last good", *(["moved since then"] if moved else [])]
    rule = ["---", "--:", "---", "---", *(["---"] if moved else [])]
    rows = [" | ".join(names), " | ".join(rule), *(" | ".join(_row(streak, moved=moved)) for streak in failing)]
    return "\n".join(f"| {row} |" for row in rows)


def keep_issue(client: Client, results: Results, failing: Sequence[Streak], *, bot: str) -> str:
    """Open, update or close the issue; says in a word what was done. A neutral night changes nothing."""
    found = _open_issue(client, bot)
    if results.verdict == "failed":
        body = issue_text(results, failing)
        if found is None:
            made = client.write(Issue, "POST", "/issues", {"title": TITLE, "body": body, "labels": [LABEL]})
            return f"opened #{made.number}"
        client.write(Issue, "PATCH", f"/issues/{found.number}", {"title": TITLE, "body": body})
        return f"updated #{found.number}"
    if results.verdict == "passed" and found is not None:
        note = f"Green again: {link('run', results.plan.request.run_url) or 'the last run'}."
        client.send("POST", f"/issues/{found.number}/comments", body={"body": note})
        client.write(Issue, "PATCH", f"/issues/{found.number}", {"state": "closed", "state_reason": "completed"})
        return f"closed #{found.number}"
    return "nothing to do"


def _open_issue(client: Client, bot: str) -> Issue | None:
    """The oldest open issue that the service opened: by author, label and marker."""
    listing = client.pages(Issue, "/issues", creator=bot, labels=LABEL, state="open", sort="created", direction="asc")
    return next((i for i in listing if not i.pull_request and (i.body or "").startswith(MARKER)), None)


def _row(streak: Streak, *, moved: bool) -> list[str]:
    first, now, good = streak.bad[0], streak.bad[-1], streak.good
    row = [cell(code(streak.entry)), str(len(streak.bad)), _night(first), _night(good) if good else "never"]
    return [*row, cell(escape_text(_moved(good, now), 600)) if good else ""] if moved else row


def _night(record: HistoryRecord) -> str:
    return cell(f"{code(record.sha[:12])} {escape_text(record.date[:10])}")


def _moved(then: HistoryRecord, now: HistoryRecord) -> str:
    """What is different from the last good night outside of the subject: Hub revision, device, libraries."""
    pairs = {"Hub revision": (then.revision[:12], now.revision[:12]), "device": (then.device, now.device)}
    pairs |= {name: (then.libraries.get(name, ""), version) for name, version in now.libraries.items()}
    moved = [f"{name} {before} → {today}" for name, (before, today) in pairs.items() if before != today and today]
    return ", ".join(moved) or "nothing outside of the subject"
