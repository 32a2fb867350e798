"""What stays visible while green: figures, notes, routing, and the heat map of the case closest to its limit. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.evidence import Heat, LayerRouting, Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.equivalence.floors import Limits
    from ci.equivalence.judged import Judged

SPECIFICATION = {"rms_rel": 3e-3, "rms_abs": 5e-4, "max_rel": 1.5e-2, "max_abs": 5e-3}
"""The specification's fixed thresholds (Fast-LLM's CompareConfig), reported but not what decides."""


def figures(judged: Sequence[Judged], measures: Sequence[Measure]) -> dict[str, float]:
    """Dimensionless figures that stay visible while green, named by dtype."""
    dtype = judged[0].limits.dtype
    found = {
        "tensors": float(sum(len(one.walked.differences) for one in judged)),
        "comparisons": float(len(judged)),
        "used": max((measure.used for measure in measures), default=0.0),
        "ratio": max((measure.ratio or 0.0 for measure in measures), default=0.0),
        "excused_by_flips": max(one.excused for one in judged),
    }
    found |= {key: value for one in judged[:1] for key, value in one.walked.logits.items()}
    logits = next((measure for measure in judged[0].measures if measure.tensor == "logits"), None)
    if logits:
        found |= {
            "logits_error": logits.error,
            "logits_floor": logits.floor or 0.0,
            "logits_ratio": logits.ratio or 0.0,
        }
    found |= {f"specification_{key}": value for key, value in specification(measures, judged[0].limits).items()}
    return {f"{dtype}.{key}": value for key, value in found.items()}


def specification(measures: Sequence[Measure], limits: Limits) -> dict[str, float]:
    """How much of the specification's fixed thresholds the worst tensor uses: 1.0 would fail."""
    return {
        key: max((getattr(m, key) for m in measures), default=0.0) / (limit * limits.compare_factor)
        for key, limit in SPECIFICATION.items()
    }


def notes(judged: Sequence[Judged]) -> tuple[str, ...]:
    """What a reader must know to read the figures right."""
    said = []
    for one in judged:
        where = f"{one.case.name}, {one.limits.dtype}: rounding flips of experts excused"
        if one.fed and one.limits.dtype != "float32":
            said.append(f"{where} most tokens, so each block was judged alone on the reference's input")
        elif one.excused:
            said.append(f"{where} up to {one.excused:.1%} of the tokens")
    return tuple(said)


def routing_of(judged: Sequence[Judged]) -> tuple[LayerRouting, ...]:
    """The routing of every layer and case, where there are experts."""
    return tuple(
        replace(layer, case=one.label, dtype=one.limits.dtype) for one in judged for layer in one.walked.routing
    )


HEAT_ROWS, HEAT_COLUMNS = 66, 64


def heat(judged: Sequence[Judged], worst: Measure | None) -> Heat | None:
    """Block by position, for the case that holds the worst tensor: log10(token error / limit), binned."""
    one = next((one for one in judged if worst and one.label == worst.case), None)
    if one is None:
        return None
    blocks = [name for name in one.walked.differences if "." not in name.removeprefix("decoder.")]
    blocks = blocks[:: max(1, math.ceil(len(blocks) / HEAT_ROWS))]
    length = one.case.ids.shape[1]
    width = math.ceil(length / HEAT_COLUMNS)
    starts = tuple(range(0, length, width))
    values = tuple(tuple(_cell(one, name, start, start + width) for start in starts) for name in blocks)
    return Heat(one.label, one.limits.dtype, tuple(blocks), starts, values)


def _cell(one: Judged, name: str, start: int, stop: int) -> float:
    errors = one.walked.differences[name].by_token[:, start:stop].nan_to_num(nan=0.0)
    return round(math.log10(max(float(errors.max()) / one.limits.token_error(name), 1e-6)), 2)
