"""The one issue about the nightly run: opened at the first failure, updated each night, closed when a night passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.github.bisect_lines import FailingNights, SubjectAddress, format_lines
from ci.github.command import COMMAND
from ci.report.escape import cell, code, escape_text, link
from ci.report.history import HistoryRecord
from ci.report.limits import COMMENT_CHARS
from ci.report.markdown import render_markdown
from ci.report.refusal_verdicts import list_refusals
from ci.report.results import find_most_complete_evidence
from ci.report.truncate_markdown import count_characters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.client import Client
    from ci.known_refusals import KnownRefusal
    from ci.report.history import Baseline
    from ci.report.results import EntryResult, Results

MARKER = "<!-- hub-tests:nightly -->"
TITLE = "hub-tests: the nightly run fails"
UPSTREAM = ("torch", "transformers")
REFUSALS_TITLE = "hub-tests: known refusals in the nightly run"
UPSTREAM_TITLE = "hub-tests: the nightly run fails with the newest torch and transformers"
LABEL = "hub-tests"
PARAGRAPH = "\n\n"
MAX_BISECT_LINES = 8
MAX_NAMED = 20
"""Models that the line about upstream names."""
MAX_TABLE_CHARS = 24_000
"""The share of the issue's body for the table of failing models."""


@dataclass(frozen=True)
class FailureStreak:
    """How long an entry has been failing.

    `failed_nights` are oldest first, tonight last; `last_passed` is the last night that passed.
    """

    entry: str
    failed_nights: tuple[HistoryRecord, ...]
    last_passed: HistoryRecord | None


@dataclass(frozen=True)
class Issue:
    """An issue as the API lists it. It lists pull requests too, with `pull_request` set."""

    number: int
    state: str
    html_url: str = ""
    body: str | None = None
    pull_request: Mapping[str, object] | None = None


def find_streaks(baseline: Baseline, tonight: Sequence[HistoryRecord]) -> tuple[FailureStreak, ...]:
    """Find the entries that fail tonight, each with its conclusive nights since it last passed."""
    streaks = []
    for record in tonight:
        if record.verdict != "failed":
            continue
        nights = baseline.select_subsets({record.entry: record.subset}).records.get(record.entry, ())
        earlier = [night for night in nights if night.verdict != "neutral" and night.run_url != record.run_url]
        passed = [index for index, night in enumerate(earlier) if night.verdict == "passed"]
        first_failed = passed[-1] + 1 if passed else 0
        last_passed = earlier[passed[-1]] if passed else None
        streaks.append(FailureStreak(record.entry, (*earlier[first_failed:], record), last_passed))
    return tuple(streaks)


def format_pages(server_url: str, repository: str, branch: str) -> str:
    """Format the links to the dashboard: where GitHub Pages serves the branch, and the branch itself."""
    owner, _, name = repository.partition("/")
    files = link("its files", f"{server_url}/{repository}/tree/{branch}")
    if server_url != "https://github.com" or not files:
        return f"The nights so far: {files}." if files else ""
    site = "" if name.lower() == f"{owner.lower()}.github.io" else f"{name}/"
    served = link("dashboard", f"https://{owner.lower()}.github.io/{site}")
    return f"The nights so far: {served}, where GitHub Pages serves the branch {code(branch)} ({files})."


def format_issue(
    results: Results, streaks: Sequence[FailureStreak], upstream: Results | None = None, pages: str = ""
) -> str:
    """Format the issue's body: which entries fail since when, what changed, and tonight's report.

    If many entries fail, the column of changes is left out, and then all columns but the names. `upstream` are the
    results with the newest versions: one line, and the whole report where nothing else failed.
    """
    top = f"{MARKER}\nhub-tests updates this issue and closes it after the first night that passes.\n\n"
    top += f"{pages}{PARAGRAPH}" if pages else ""
    tables = (
        _format_table(streaks, changes=True),
        _format_table(streaks, changes=False),
        ", ".join(code(streak.entry) for streak in streaks),
    )
    table = next((text for text in tables if count_characters(text) <= MAX_TABLE_CHARS), tables[-1])
    told = f"{table}{PARAGRAPH}{_format_bisect(results, streaks)}" if streaks else ""
    head = f"{top}{told}{format_refusals(results)}{format_upstream(upstream) if upstream else ''}"
    shown = upstream if upstream and results.verdict != "failed" else results
    return head + render_markdown(shown, COMMENT_CHARS - count_characters(head) - 100)


def _format_bisect(results: Results, streaks: Sequence[FailureStreak]) -> str:
    """Format the lines that find what broke the first models: each thing that changed has its own."""
    request = results.plan.request
    server = "/".join(request.run_url.split("/")[:3]) or "https://github.com"
    name = "" if results.plan.adapter else request.subject
    subject = SubjectAddress(name, f"{server}/{request.subject_repository or request.repository}")
    broken = [(s, FailingNights(s.last_passed, s.failed_nights[0])) for s in streaks if s.last_passed]
    lines = [line for _, nights in broken for line in format_lines(nights, subject)]
    if not lines:
        return ""
    more = f"\n# and {len(lines) - MAX_BISECT_LINES} more" if len(lines) > MAX_BISECT_LINES else ""
    block = "\n".join(lines[:MAX_BISECT_LINES]) + more
    told = f"or comment {code(f'{COMMAND} bisect {broken[0][0].entry}')} on a pull request"
    return f"Which change broke it ({told}):\n\n```sh\n{block}\n```{PARAGRAPH}"


def format_refusals(results: Results) -> str:
    """Format a line for each model that the subject is known to refuse, and what tonight says of it; "" for none."""
    found = list_refusals(results)
    if not found:
        return ""
    rows = ["**Known refusals**, which block nothing:\n", "| model | since | finding | tonight |", "|---|---|---|---|"]
    for entry, known in found[:MAX_NAMED]:
        finding = link("finding", known.finding) or code(known.finding)
        facts = (code(entry.name), escape_text(known.since), finding, _format_refusal(entry, known))
        rows.append(f"| {' | '.join(cell(fact) for fact in facts)} |")
    rows += [f"\nand {len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return "\n".join(rows) + PARAGRAPH


def _format_refusal(entry: EntryResult, known: KnownRefusal) -> str:
    """Format what tonight says of a known refusal."""
    if entry.refused_as_known:
        return f"refused, as known: {code(known.words)}"
    if entry.refusal == "no_longer":
        return f"**no longer refused**: remove {code('known_refusals')} from the registry"
    return "fails in another way, see above"


def format_upstream(upstream: Results) -> str:
    """Format the paragraph about the newest torch and transformers: which models fail with them."""
    entries = upstream.entries
    failed = [entry.name for entry in entries if entry.verdict == "failed"]
    silent = sum(entry.verdict == "neutral" for entry in entries)
    names = ", ".join(code(name) for name in failed[:MAX_NAMED]) + (", …" if len(failed) > MAX_NAMED else "")
    parts = [f"{len(failed)} of {len(entries)} fail: {names}" if failed else f"none of {len(entries)} fails"]
    parts += [f"{silent} without an answer"] if silent else []
    found = (find_most_complete_evidence(entry.cases) for entry in entries)
    libraries = next((evidence.libraries for evidence in found if evidence), {})
    versions = ", ".join(f"{name} {libraries[name]}" for name in UPSTREAM if name in libraries)
    told = escape_text(versions or "the newest that the environment allows", 200)
    return f"**Upstream** ({told}), which blocks nothing: {'; '.join(parts)}.{PARAGRAPH}"


def update_issue(
    client: Client,
    results: Results,
    streaks: Sequence[FailureStreak],
    *,
    bot: str,
    upstream: Results | None = None,
    pages: str = "",
) -> str:
    """Open, update or close the issue and return what was done. A neutral night changes nothing.

    A failure with the newest versions alone keeps it open too, and so do known refusals, each under a title of its
    own. `pages` links to the nights.
    """
    issue = _find_open_issue(client, bot)
    breaks_upstream = upstream is not None and upstream.verdict == "failed"
    if title := _choose_title(results, breaks_upstream=breaks_upstream):
        body = format_issue(results, streaks, upstream, pages)
        if issue is None:
            created = client.write(Issue, "POST", "/issues", {"title": title, "body": body, "labels": [LABEL]})
            return f"opened #{created.number}"
        client.write(Issue, "PATCH", f"/issues/{issue.number}", {"title": title, "body": body})
        return f"updated #{issue.number}"
    if results.verdict == "passed" and issue is not None:
        note = f"The nightly run passes again: {link('run', results.plan.request.run_url) or 'the last run'}."
        client.send("POST", f"/issues/{issue.number}/comments", body={"body": note})
        client.write(Issue, "PATCH", f"/issues/{issue.number}", {"state": "closed", "state_reason": "completed"})
        return f"closed #{issue.number}"
    return "nothing to do"


def _choose_title(results: Results, *, breaks_upstream: bool) -> str:
    """Choose the title of the issue; "" where the night has nothing to tell, or says nothing."""
    if results.verdict == "failed":
        return TITLE
    if breaks_upstream:
        return UPSTREAM_TITLE
    answered = results.verdict == "passed" or all(entry.refused_as_known for entry in results.entries)
    return REFUSALS_TITLE if answered and list_refusals(results) else ""


def _find_open_issue(client: Client, bot: str) -> Issue | None:
    """Find the oldest open issue of the service, by author, label and marker."""
    issues = client.paginate(Issue, "/issues", creator=bot, labels=LABEL, state="open", sort="created", direction="asc")
    return next((i for i in issues if not i.pull_request and (i.body or "").startswith(MARKER)), None)


def _format_table(streaks: Sequence[FailureStreak], *, changes: bool) -> str:
    names = ["model", "nights", "first failed", "last passed", *(["changed since then"] if changes else [])]
    rule = ["---", "--:", "---", "---", *(["---"] if changes else [])]
    rows = [" | ".join(names), " | ".join(rule), *(" | ".join(_format_row(s, changes=changes)) for s in streaks)]
    return "\n".join(f"| {row} |" for row in rows)


def _format_row(streak: FailureStreak, *, changes: bool) -> list[str]:
    first, tonight, passed = streak.failed_nights[0], streak.failed_nights[-1], streak.last_passed
    row = [
        cell(code(streak.entry)),
        str(len(streak.failed_nights)),
        _format_night(first),
        _format_night(passed) if passed else "never",
    ]
    return [*row, cell(escape_text(_describe_changes(passed, tonight), 600)) if passed else ""] if changes else row


def _format_night(record: HistoryRecord) -> str:
    return cell(f"{code(record.sha[:12])} {escape_text(record.date[:10])}")


def _describe_changes(before: HistoryRecord, now: HistoryRecord) -> str:
    """Describe what changed outside of the subject since `before`: Hub revision, device, libraries."""
    pairs = {"Hub revision": (before.revision[:12], now.revision[:12]), "device": (before.device, now.device)}
    pairs |= {name: (before.libraries.get(name, ""), version) for name, version in now.libraries.items()}
    changes = [f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new and new]
    return ", ".join(changes) or "nothing outside of the subject"
