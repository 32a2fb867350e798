"""What exports keep, change, drop and add beside their weights: one table for each checkpoint format. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.evidence import Companion, CompanionJudgement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.report.results import Results

JUDGEMENTS: dict[CompanionJudgement, str] = {
    "defect": "defect",
    "finding": "finding",
    "permitted": "without consequence",
    "equal": "the same",
}
"""What each judgement is called, the gravest first."""
MAX_ROWS = 300
MODELS = 12
"""Models that a row names."""


@dataclass(frozen=True)
class CompanionRow:
    """A row that is the same for some models of a format."""

    companion: Companion
    models: tuple[str, ...]


@dataclass(frozen=True)
class KeptNames:
    """What models of a format keep in one part: keys of a file, or files."""

    part: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class CompanionTable:
    """The table of one format. `rows` are what is not as it was, the gravest first; `more` counts those left out."""

    checkpoint_format: str
    models: tuple[str, ...]
    rows: tuple[CompanionRow, ...]
    kept: tuple[KeptNames, ...]
    more: int = 0

    def count(self, judgement: CompanionJudgement) -> int:
        """Count the rows with a judgement, and of what is the same also what was kept."""
        kept = sum(len(part.names) for part in self.kept) if judgement == "equal" else 0
        return kept + sum(row.companion.judgement == judgement for row in self.rows)

    @property
    def summary(self) -> str:
        """How many rows each judgement has: `3 findings, 5 without consequence, 20 the same`."""
        counted = ((self.count(judgement), name) for judgement, name in JUDGEMENTS.items())
        plural = {1: ""}
        return ", ".join(
            f"{number} {name}{plural.get(number, 's') if name in ('defect', 'finding') else ''}"
            for number, name in counted
            if number
        )


def build_companion_tables(results: Results) -> tuple[CompanionTable, ...]:
    """Build the tables, in the order of the plan.

    A format whose exports were not compared has none.
    """
    formats = {entry.name: entry.model.checkpoint_format for entry in results.plan.entries}
    found: dict[str, dict[str, tuple[Companion, ...]]] = {}
    for entry in results.entries:
        rows = tuple(one for case in entry.cases if case.evidence for one in case.evidence.companions)
        if rows and entry.name in formats:
            found.setdefault(formats[entry.name], {})[entry.name] = rows
    return tuple(_build_table(name, models) for name, models in found.items())


def _build_table(checkpoint_format: str, models: Mapping[str, tuple[Companion, ...]]) -> CompanionTable:
    merged: dict[Companion, list[str]] = {}
    for model, companions in models.items():
        for one in dict.fromkeys(companions):
            merged.setdefault(one, []).append(model)
    order = list(JUDGEMENTS)
    changed = [(one, names) for one, names in merged.items() if one.fate != "kept"]
    changed.sort(key=lambda pair: order.index(pair[0].judgement))
    return CompanionTable(
        checkpoint_format,
        tuple(models),
        tuple(CompanionRow(one, tuple(names[:MODELS])) for one, names in changed[:MAX_ROWS]),
        _group_kept([one for one in merged if one.fate == "kept"]),
        max(0, len(changed) - MAX_ROWS),
    )


def _group_kept(kept: Sequence[Companion]) -> tuple[KeptNames, ...]:
    parts: dict[str, dict[str, None]] = {}
    for one in kept:
        parts.setdefault(one.part, {})[one.name] = None
    return tuple(KeptNames(part, tuple(names)[:MAX_ROWS]) for part, names in parts.items())
