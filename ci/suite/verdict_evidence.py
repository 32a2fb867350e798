"""What a test records and prints of the judge's verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.units import format_share_of_limit

if TYPE_CHECKING:
    from ci.equivalence.verdict import Verdict
    from ci.evidence import Evidence, Measure


def add_verdicts(evidence: Evidence, verdicts: tuple[Verdict, ...]) -> Evidence:
    """Add verdicts to a test's evidence.

    The first failed verdict gives class and component; the measure closest to its limit is the worst.
    """
    red = [verdict for verdict in verdicts if not verdict.passed]
    worst = [verdict.worst for verdict in red or verdicts if verdict.worst]
    return replace(
        evidence,
        dtype=" ".join(dict.fromkeys(m.dtype for v in verdicts for m in v.measures)),
        ran={axis: name for v in verdicts for axis, name in v.ran.items()},
        failure_class=red[0].failure_class if red else None,
        diagnosis="; ".join(dict.fromkeys(v.diagnosis for v in red if v.diagnosis)),
        worst=max(worst, key=lambda measure: measure.used, default=None),
        half=red[0].component if red else "",
        layer=red[0].layer if red else None,
        operation=red[0].operation if red else "",
        heat=next((verdict.heat for verdict in red or verdicts if verdict.heat), None),
        routing=tuple(layer for verdict in verdicts for layer in verdict.routing),
        served=tuple(gap for verdict in verdicts for gap in verdict.served),
        companions=tuple(one for verdict in verdicts for one in verdict.companions),
        measures=tuple(m for v in verdicts for m in v.measures),
        coverage={key: value for v in verdicts for key, value in v.coverage.items()},
        figures={**evidence.figures, **{key: value for v in verdicts for key, value in v.figures.items()}},
        notes=tuple(dict.fromkeys(note for v in verdicts for note in v.notes)),
        warnings=tuple(dict.fromkeys(warning for v in verdicts for warning in v.warnings)),
    )


def format_failures(verdicts: tuple[Verdict, ...]) -> str:
    """Format failed verdicts for a terminal: diagnosis, then the worst tensor with expected and actual."""
    lines = []
    for verdict in verdicts:
        if not verdict.passed:
            lines.append(verdict.diagnosis or str(verdict.failure_class))
            lines += [_format_measure(verdict.worst)] if verdict.worst else []
    return "\n".join(lines)


def _format_measure(measure: Measure) -> str:
    where = ", ".join(map(str, measure.worst_index))
    floor = f", floor {measure.floor:.2e}" if measure.floor is not None else ""
    error, limit = measure.decisive
    of_token = "of its worst token " if measure.decided_by_token else ""
    return (
        f"{measure.tensor} ({measure.dtype}): {format_share_of_limit(measure.used)}: error {of_token}{error:.2e}, "
        f"limit {limit:.2e}{floor}; at [{where}] expected {measure.expected}, got {measure.actual}"
    )
