"""What a report shows of a served export: each input's gap, the figures by dtype, and whose a mismatch is. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.equivalence.tolerances import SERVED_TOLERANCE
from ci.evidence import SERVED_LOGPROBS, ServedGap
from ci.suite.tests import SERVED_TEST
from ci.units import format_share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.evidence import Evidence, Measure
    from ci.report.results import CaseResult, EntryResult

EXPLANATION = (
    "Two right engines do not give the same log-probabilities: they add in another order. "
    "How far apart they are is measured first, with the original checkpoint in Hugging Face and in the engine, over "
    "the same tokens in the same run: that is the floor. "
    "The export goes into the same engine, and error / limit is its gap to Hugging Face divided by "
    f"{SERVED_TOLERANCE:g} times that floor. "
    f"A right export has the original's bits, so it has the original's gap, and stands at {1 / SERVED_TOLERANCE:.0%}. "
    "Above 100% the engine serves another model than the one that was published."
)
"""What the number means, in five sentences; docs/served.md says the same."""
MOST_ROWS = 24


@dataclass(frozen=True)
class InputRow:
    """One input in one dtype: rms gaps to Hugging Face in nats, and error / limit. Greedy tokens have no gap."""

    dtype: str
    name: str
    original: str
    export: str
    share: str
    passed: bool


@dataclass(frozen=True)
class DtypeRow:
    """All inputs in one dtype, as text: `largest` and the others are the original's, then the export's."""

    dtype: str
    largest: str
    multiplicative: str
    divergence: str
    greedy: str
    flips: str


@dataclass(frozen=True)
class MismatchRow:
    """The trainer's log-probabilities against the engine's, rms in nats, and whose part of the square is whose."""

    dtype: str
    total: str
    trainer: str
    engine: str
    engine_share: str
    trainer_share: str


@dataclass(frozen=True)
class ServedSection:
    """One model's served export. `facts` are the engine with its flags and what it scored, name and text."""

    title: str
    facts: tuple[tuple[str, str], ...]
    inputs: tuple[InputRow, ...]
    dtypes: tuple[DtypeRow, ...]
    mismatch: tuple[MismatchRow, ...]
    notes: tuple[str, ...]


def make_served_section(entry: EntryResult) -> ServedSection | None:
    """Return what a model's served test measured; None where nothing served it."""
    case = find_served_case(entry)
    if case is None or case.evidence is None or not case.evidence.measures:
        return None
    evidence = case.evidence
    dtypes = tuple(dict.fromkeys(measure.dtype for measure in evidence.measures))
    served_by = evidence.coverage.get("served by", "")
    return ServedSection(
        title=f"Served by {served_by.partition(' (')[0] or 'an engine'}",
        facts=tuple((name, text) for name, text in evidence.coverage.items() if name.startswith("served")),
        inputs=tuple(_make_input_row(measure) for measure in evidence.measures[:MOST_ROWS]),
        dtypes=tuple(_make_dtype_row(dtype, evidence.figures) for dtype in dtypes),
        mismatch=tuple(row for dtype in dtypes if (row := _make_mismatch_row(dtype, evidence.figures))),
        notes=tuple(evidence.notes[:MOST_ROWS]),
    )


def find_served_case(entry: EntryResult) -> CaseResult | None:
    """Return the result of the served test of a model, None where none was planned."""
    return next((case for case in entry.cases if case.step == SERVED_TEST), None)


def find_token_limit(evidence: Evidence, gap: ServedGap) -> float | None:
    """Return the limit of a single token of a drawn input, None where it was not measured."""
    found = (m for m in evidence.measures if (m.tensor, m.case, m.dtype) == (SERVED_LOGPROBS, gap.case, gap.dtype))
    return next((measure.token_limit for measure in found), None)


def describe_served(entry: EntryResult) -> tuple[str, ...]:
    """Describe a served export in at most three lines: the engine, and each dtype's gap and whose it is."""
    case, section = find_served_case(entry), make_served_section(entry)
    if case is None or case.evidence is None or section is None:
        return ()
    said = case.evidence.coverage.get("served batch invariance", "")
    lines = [f"{section.title}{f', batch invariance {said}' if said else ''}"]
    for row in section.dtypes:
        of_dtype = [one for one in section.inputs if one.dtype == row.dtype and one.original]
        worst = f"{of_dtype[0].export} nats from Hugging Face, the original {of_dtype[0].original}" if of_dtype else ""
        whose = next((one for one in section.mismatch if one.dtype == row.dtype), None)
        trainer = (
            f"; trainer against rollout {whose.total} nats, of whose square {whose.engine_share} is Hugging Face's own "
            f"gap to the engine and {whose.trainer_share} the trainer's"
            if whose
            else ""
        )
        lines.append(f"{row.dtype}: {worst}{trainer}")
    return tuple(lines[:3])


def _make_input_row(measure: Measure) -> InputRow:
    scored = measure.tensor == SERVED_LOGPROBS
    return InputRow(
        dtype=measure.dtype,
        name=measure.case if scored else "greedy tokens",
        original=_format(measure.floor) if scored else "",
        export=_format(measure.error) if scored else "",
        share=format_share(measure.used),
        passed=measure.passed,
    )


def _make_dtype_row(dtype: str, figures: Mapping[str, float]) -> DtypeRow:
    def pair(name: str) -> str:
        sides = [_format(figures.get(f"{dtype}.served_{side}_{name}")) for side in ("original", "export")]
        return " → ".join(sides)

    flips = [figures.get(f"{dtype}.served_{side}_flips") for side in ("original", "export")]
    return DtypeRow(
        dtype=dtype,
        largest=pair("max"),
        multiplicative=pair("token_mult_prob_error"),
        divergence=pair("kl_k3"),
        greedy=_format_part(figures.get(f"{dtype}.served_greedy_equal")),
        flips=" → ".join(f"{flip:.0f}" for flip in flips if flip is not None and math.isfinite(flip)),
    )


def _make_mismatch_row(dtype: str, figures: Mapping[str, float]) -> MismatchRow | None:
    names = (
        "trainer_rollout_rms",
        "trainer_hugging_face_rms",
        "hugging_face_rollout_rms",
        "trainer_rollout_engine_share",
    )
    values = [figures.get(f"{dtype}.{name}") for name in names]
    known = [value for value in values if value is not None]
    if len(known) < len(names):
        return None
    total, trainer, engine, engine_share = known
    return MismatchRow(
        dtype=dtype,
        total=_format(total),
        trainer=_format(trainer),
        engine=_format(engine),
        engine_share=_format_part(engine_share),
        trainer_share=_format_part(1 - engine_share),
    )


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _format_part(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value * 100:.0f} %"
