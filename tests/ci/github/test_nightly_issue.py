"""The issue about the nightly run, against the stand-in for GitHub."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.github import nightly_issue
from ci.known_refusals import KnownRefusal
from ci.report.history import make_history_records
from tests.ci.report import samples
from tests.e2e.fake_github import BOT

if TYPE_CHECKING:
    from ci.github.client import Client
    from ci.report.history import Baseline
    from tests.e2e.fake_github import State


def nightly_results(*bad: str) -> Any:
    plan = samples.plan_of(trigger="schedule", pull_request=None)
    return samples.make_results(plan, {f"test_forward_equivalence[{name}]": samples.mismatch() for name in bad})


def apart(history: Baseline) -> Baseline:
    """Every night with a run of its own."""
    records = {
        name: tuple(replace(night, run_url=f"https://github.com/{number}") for number, night in enumerate(known))
        for name, known in history.records.items()
    }
    return replace(history, records=records)


def keep(client: Client, results: Any, *nights: Any) -> str:
    history = apart(samples.nights(results.plan, *nights))
    failing = nightly_issue.find_streaks(history, make_history_records(results, "2026-09-01T03:17:00Z"))
    return nightly_issue.update_issue(client, results, failing, bot=BOT)


def test_the_nightly_issue_opens_stays_current_and_closes(client: Client, state: State) -> None:
    fault = {"test_forward_equivalence[smollm2]": samples.mismatch()}
    assert keep(client, nightly_results(), {}) == "nothing to do"
    assert keep(client, nightly_results("smollm2"), {}, {}) == "opened #100"
    assert keep(client, nightly_results("smollm2", "mistral"), {}, fault, fault) == "updated #100"
    (issue,) = state.issues
    rows = [line for line in issue["body"].splitlines() if line.startswith("| `")]
    assert rows[0].startswith("| `smollm2` | 3 | `028877665544`")  # since the second night of three
    assert "`018877665544`" in rows[0]
    assert rows[1].startswith("| `mistral` | 1 |")
    assert "nothing outside of the subject" in rows[0]
    assert keep(client, samples.neutral(), fault) == "nothing to do"
    assert keep(client, nightly_results(), fault) == "closed #100"
    assert state.issues[0]["state"] == "closed"
    assert keep(client, nightly_results("mistral"), {}) == "opened #101"


KNOWN = KnownRefusal("reference", "HF config has unknown key 'x'", "2026-11-25", "https://example.com/finding")


def refusing_night(*, said: str | None = None, bad: tuple[str, ...] = ()) -> Any:
    """A night in which smollm2 is known to be refused; with `said` it is refused in these words."""
    plan = samples.plan_of(trigger="schedule", pull_request=None)
    known = {"smollm2": (KNOWN,)}
    entries = (replace(e, model=replace(e.model, known_refusals=known.get(e.name, ()))) for e in plan.entries)
    plan = replace(plan, entries=tuple(entries))
    faults: dict[str, Any] = {f"test_forward_equivalence[{name}]": samples.mismatch() for name in bad}
    if said:
        own = {entry.name: entry.tests for entry in plan.entries}["smollm2"][2:]
        evidence = {"failure_class": "other", "diagnosis": said}
        faults |= {"test_conversion[smollm2]": samples.Fault("failure", said, said, evidence)}
        faults |= samples.chain("smollm2", "test_conversion", said, steps=own)
    return samples.make_results(plan, faults)


def test_known_refusals_have_their_own_lines_and_title_until_they_are_gone(client: Client, state: State) -> None:
    refused = refusing_night(said=f"ValueError: {KNOWN.words}")
    assert refused.verdict == "passed"
    assert keep(client, refused, {}) == "opened #100"
    assert state.issues[0]["title"] == nightly_issue.REFUSALS_TITLE
    lines = [line for line in state.issues[0]["body"].splitlines() if line.startswith("| `smollm2`")]
    assert "refused, as known: `HF config has unknown key 'x'`" in lines[0]
    assert "[finding](https://example.com/finding)" in lines[0]
    assert keep(client, refusing_night(said="ValueError: something else"), {}) == "updated #100"
    assert state.issues[0]["title"] == nightly_issue.TITLE
    assert "fails in another way, see above" in state.issues[0]["body"]
    assert keep(client, refusing_night(), {}) == "updated #100"
    assert state.issues[0]["title"] == nightly_issue.REFUSALS_TITLE
    assert "**no longer refused**: remove `known_refusals` from the registry" in state.issues[0]["body"]
    assert keep(client, nightly_results(), {}) == "closed #100"


def test_a_failing_night_tells_of_its_known_refusals_too() -> None:
    results = refusing_night(said=KNOWN.words, bad=("mistral",))
    failing = nightly_issue.find_streaks(samples.nights(results.plan), make_history_records(results, "2026-09-01"))
    assert [streak.entry for streak in failing] == ["mistral"]
    text = nightly_issue.format_issue(results, failing)
    assert "**Known refusals**, which block nothing:" in text
    assert "Known refusals" not in nightly_issue.format_issue(nightly_results("mistral"), ())


def test_somebody_elses_issue_is_not_ours(client: Client, state: State) -> None:
    state.issues.append(
        {
            "number": 9,
            "state": "open",
            "title": nightly_issue.TITLE,
            "body": nightly_issue.MARKER,
            "labels": [{"name": nightly_issue.LABEL}],
            "user": {"login": "mallory", "type": "User"},
        }
    )
    ours = {
        "title": nightly_issue.TITLE,
        "body": nightly_issue.MARKER,
        "labels": [{"name": nightly_issue.LABEL}],
        "user": {"login": BOT},
    }
    pull = {"url": "https://api.github.com/p/8", "html_url": None, "diff_url": None, "patch_url": None}
    state.issues.append({"number": 8, "state": "open", "pull_request": pull, **ours})
    assert keep(client, nightly_results(), {}) == "nothing to do"
    assert keep(client, nightly_results("smollm2"), {}) == "opened #102"


def test_an_issue_says_what_moved_since_it_was_good() -> None:
    results = nightly_results("smollm2")
    history = apart(samples.nights(results.plan, {}))
    before = {
        name: tuple(replace(record, libraries={"torch": "2.12.0"}, revision="f" * 40) for record in known)
        for name, known in history.records.items()
    }
    failing = nightly_issue.find_streaks(
        replace(history, records=before), make_history_records(results, "2026-09-01T03:17:00Z")
    )
    assert [streak.entry for streak in failing] == ["smollm2"]
    sliced = [replace(record, subset="vocab=9") for record in make_history_records(results, "2026-09-01T03:17:00Z")]
    (alone,) = nightly_issue.find_streaks(replace(history, records=before), sliced)
    assert (len(alone.failed_nights), alone.last_passed) == (1, None), "nights of the whole model count"
    text = nightly_issue.format_issue(results, failing)
    assert "torch 2.12.0 → 2.13.0" in text.replace("`", "")
    assert "Hub revision ffffffffffff → " in text.replace("`", "")
    assert len(text) <= 65536


@pytest.mark.parametrize(("models", "tables"), [(3, "| changed since then |"), (120, "| last passed |"), (256, "")])
def test_an_issue_about_many_models_still_fits_and_names_each(models: int, tables: str) -> None:
    results = samples.huge()
    now, then = ({f"library-{n}": digit * 40 for n in range(8)} for digit in "12")
    tonight = [
        replace(record, libraries=now) for record in make_history_records(results, "2026-09-01T03:17:00Z")[:models]
    ]
    failing = [
        nightly_issue.FailureStreak(record.entry, (record,), replace(record, libraries=then)) for record in tonight
    ]
    text = nightly_issue.format_issue(results, failing)
    assert len(text) <= 65_536
    assert all(f"`{record.entry}`" in text for record in tonight)
    assert "Failed: 256 of 256 models" in text
    assert tables in text
    assert ("| nights |" in text) == bool(tables)


def test_a_failure_with_the_newest_versions_has_its_own_line_and_title(client: Client, state: State) -> None:
    def tell(results: Any, upstream: Any) -> str:
        return nightly_issue.update_issue(client, results, (), bot=BOT, upstream=upstream)

    good, bad = nightly_results(), nightly_results("mistral")
    assert tell(good, good) == "nothing to do"
    assert tell(good, bad) == "opened #100"
    (issue,) = state.issues
    assert issue["title"] == nightly_issue.UPSTREAM_TITLE
    (line,) = [line for line in issue["body"].splitlines() if line.startswith("**Upstream**")]
    assert "which blocks nothing: 1 of 3 fail: `mistral`" in line
    assert re.search(r"\(torch \d+\.[\d.]+, transformers \d+\.", line)
    assert "mistral" in issue["body"].split("**Upstream**")[1]  # and its causes below
    assert tell(samples.neutral(), bad) == "updated #100"
    assert keep(client, bad, {}) == "updated #100"
    assert state.issues[0]["title"] == nightly_issue.TITLE
    assert "**Upstream**" not in state.issues[0]["body"]
    assert tell(good, samples.neutral()) == "closed #100"


def test_a_night_that_fails_tells_of_upstream_in_one_line(client: Client, state: State) -> None:
    bad = nightly_results("smollm2")
    assert nightly_issue.update_issue(client, bad, (), bot=BOT, upstream=nightly_results()) == "opened #100"
    body = state.issues[0]["body"]
    assert "which blocks nothing: none of 3 fails." in body
    assert "2 without an answer" in nightly_issue.format_upstream(samples.neutral())
