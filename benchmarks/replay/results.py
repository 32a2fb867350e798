"""Results of the replay as lines, a Markdown table, and JSON."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from benchmarks.replay.records import Finding, PairResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.replay.records import Pair

RED_TARGET, GREEN_TARGET, LOCATED_TARGET = 0.9, 1.0, 0.8
"""Shares of the pairs that ran: red before the fix, green after it, located where they should be."""


def describe_result(result: PairResult) -> str:
    """Return one line for a terminal."""
    name = f"{result.pair.name} ({result.pair.commit})"
    if not result.ran:
        return f"{name}: could not run: {result.reason}"
    assert result.before is not None and result.after is not None  # noqa: PT018 (narrowing only)
    states = f"before {_describe_state(result.before)}; after {_describe_state(result.after)}"
    located = "located" if result.located else f"NOT located, expected {result.pair.place}"
    return f"{name}: {states}; {located}; {result.seconds:.0f} s"


def count_results(results: Sequence[PairResult]) -> dict[str, int]:
    """Count the pairs that ran, and of those the red, green and located ones."""
    ran = [result for result in results if result.ran]
    return {
        "pairs": len(results),
        "ran": len(ran),
        "red before": sum(result.red_before for result in ran),
        "green after": sum(result.green_after for result in ran),
        "located": sum(result.located for result in ran),
    }


def meets_targets(results: Sequence[PairResult]) -> bool:
    """Return whether the pairs that ran reach the three shares; none that ran is not enough."""
    counts = count_results(results)
    ran = counts["ran"]
    targets = {"red before": RED_TARGET, "green after": GREEN_TARGET, "located": LOCATED_TARGET}
    return ran > 0 and all(counts[name] >= share * ran for name, share in targets.items())


def summarize(results: Sequence[PairResult]) -> str:
    """Return the counts in one line."""
    counts = count_results(results)
    return (
        f"{counts['pairs']} pairs, {counts['ran']} ran: {counts['red before']} red before, "
        f"{counts['green after']} green after, {counts['located']} located"
    )


def write_results(results: Sequence[PairResult], directory: Path, commit: str) -> None:
    """Write `replay.json` and `replay.md`."""
    directory.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("torch", "transformers")}
    document = {"commit": commit, "judge": versions, **count_results(results), "results": list(map(to_dict, results))}
    (directory / "replay.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (directory / "replay.md").write_text(format_table(results), encoding="utf-8")


def read_results(directory: Path, commit: str, pairs: Sequence[Pair]) -> list[PairResult]:
    """Read the results of `pairs` that an earlier run over the same commit wrote.

    There are none where there is no such file.
    """
    file = directory / "replay.json"
    document = json.loads(file.read_bytes()) if file.is_file() else {}
    rows = {row["name"]: row for row in document.get("results", ()) if document["commit"] == commit}
    return [_read_result(pair, rows[pair.name]) for pair in pairs if pair.name in rows]


def _read_result(pair: Pair, row: dict[str, Any]) -> PairResult:
    if "could_not_run" in row:
        return PairResult(pair, reason=row["could_not_run"])
    return PairResult(pair, Finding(**row["before"]), Finding(**row["after"]), row["seconds"])


def to_dict(result: PairResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    pair = result.pair
    facts: dict[str, Any] = {"name": pair.name, "commit": pair.commit, "fixed": pair.fixed}
    facts |= {"recreation": type(pair.recreation).__name__, "expected": str(pair.place)}
    if not result.ran:
        return facts | {"could_not_run": result.reason}
    facts |= {"model": pair.model.name if pair.model else None, "checks": list(pair.checks)}
    facts |= {"before": vars(result.before), "after": vars(result.after), "located": result.located}
    return facts | {"seconds": round(result.seconds, 1)}


def format_table(results: Sequence[PairResult]) -> str:
    """Return the pairs that ran, then the pairs that did not with their reasons."""
    lines = ["| fix | what it fixed | before | told as | located | after | s |", "|---|---|---|---|---|---|---:|"]
    lines += [_format_row(result) for result in results if result.ran]
    lines += ["", summarize(results) + ".", ""]
    if not_run := [result for result in results if not result.ran]:
        lines += ["| fix | what it fixed | why it could not run |", "|---|---|---|"]
        lines += [f"| `{r.pair.commit}` | {r.pair.fixed} | {_escape(r.reason)} |" for r in not_run] + [""]
    return "\n".join(lines)


def _format_row(result: PairResult) -> str:
    before = result.before
    assert before is not None
    red = f"red: {before.failure_class} ({before.check})" if result.red_before else "**green**"
    located = "yes" if result.located else "**no**"
    after = "green" if result.green_after else "**red**"
    told, pair = _escape(_shorten(before.diagnosis)), result.pair
    return f"| `{pair.commit}` | {pair.fixed} | {red} | {told} | {located} | {after} | {result.seconds:.0f} |"


def _describe_state(finding: Finding) -> str:
    if finding.passed:
        return "green"
    return f"RED in {finding.check} ({finding.failure_class}): {_shorten(finding.diagnosis, 240)}"


def _shorten(text: str, length: int = 120) -> str:
    """Return the first clause of a diagnosis, with the last part of each absolute path only."""
    first = re.sub(r"(?<![\w.])(?:/[\w.-]+)+/", "", text.split("; first wrong tensor")[0])
    return first if len(first) <= length else f"{first[: length - 1]}…"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
