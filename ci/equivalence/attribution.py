"""Which component is faulty, the conversion or the kernel: the independent evidence, and what follows from it.

The evidence is the converted checkpoint itself, checked tensor by tensor and key by key, and forward passes over it by
another implementation, the cross-check.
"""

from __future__ import annotations

from dataclasses import dataclass

CONVERSION, KERNEL, BOTH, UNKNOWN = "conversion", "kernel", "conversion and kernel", "conversion or kernel"


@dataclass(frozen=True)
class AttributionEvidence:
    """What each independent check says; None where it could not run.

    `wrong_tensors` and `wrong_keys` list what is wrong in the converted checkpoint. `cross_check_agrees`: the
    cross-check's forward over the subject's conversion equals Hugging Face's. `right_on_cross_conversion`: the
    subject's own forward over the cross-check's conversion does. `refused` is what the cross-check cannot read in the
    converted checkpoint, a feature that its own conversion of the same model does without; empty without one.
    """

    wrong_tensors: tuple[str, ...] | None = None
    wrong_keys: tuple[str, ...] | None = None
    cross_check_agrees: bool | None = None
    right_on_cross_conversion: bool | None = None
    refused: str = ""


@dataclass(frozen=True)
class FaultyComponent:
    """The faulty component, and the evidence for it in plain words."""

    name: str
    reason: str = ""


def attribute(evidence: AttributionEvidence) -> FaultyComponent:
    """Decide which component is faulty.

    The cross-check's forward counts most, then what the converted checkpoint holds.
    """
    wrong = [*(evidence.wrong_tensors or ()), *(evidence.wrong_keys or ())]
    if evidence.cross_check_agrees:
        reason = "the reference's forward over the same converted checkpoint equals Hugging Face's"
        return FaultyComponent(KERNEL, reason)
    if evidence.cross_check_agrees is False or wrong:
        reason = _shorten(wrong) or "the reference's forward over the same converted checkpoint is wrong too"
        return FaultyComponent(BOTH if evidence.right_on_cross_conversion is False else CONVERSION, reason)
    if evidence.wrong_tensors is not None and evidence.wrong_keys is not None:
        return FaultyComponent(KERNEL, "every tensor and every key of the converted checkpoint is right")
    if evidence.right_on_cross_conversion is False:
        return FaultyComponent(KERNEL, "it is wrong over the reference's conversion too")
    if evidence.right_on_cross_conversion:
        more = f"; in its own conversion: {evidence.refused}" if evidence.refused else ""
        return FaultyComponent(CONVERSION, f"the same forward over the reference's conversion is right{more}")
    return FaultyComponent(UNKNOWN, "no independent check can read this converted checkpoint")


def _shorten(reasons: list[str]) -> str:
    return "; ".join(reasons[:3]) + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")
