"""The suite's checks of whole training steps, and the layouts between which checkpoints are carried."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ci.errors import UnsupportedError
from ci.evidence import NOT_COVERED
from ci.subjects.registry import find_offer

if TYPE_CHECKING:
    from ci.equivalence.judge import Judge
    from ci.equivalence.verdict import Verdict

CONVERSION_LAYOUTS = ("tp2", "pp2", "zero2", "zero3")
"""Layouts that cut weights and optimizer state in different ways."""
ONE_PROCESS = "layout=single"
"""The variant whose needs the tests of training in one process have."""
BALANCING_LAYOUT = "accumulate2"
"""Two documents, so that a sum of their balancing losses is not their mean."""


def list_conversion_layouts(subject: str) -> tuple[str, ...]:
    """Return the layouts between which the subject's checkpoints are carried."""
    return tuple(name for name in CONVERSION_LAYOUTS if name in find_offer(subject).layouts)


def check_steps(judge: Judge, subject: str) -> tuple[Verdict, ...]:
    """Check whole steps in one process; of a mixture of experts, also with its balancing loss.

    Where several mixers take turns, each of them is trained in every block.
    Raises NotOfferedError for a subject that runs no training steps.
    """
    if mixers := judge.list_mixers():
        from ci.equivalence.case_failures import check_each

        return check_each({f"mixer {name}": partial(_check_mixer, judge, name) for name in mixers})
    verdict = judge.check_training("single")
    if not judge.reference.requirements.experts or BALANCING_LAYOUT not in find_offer(subject).layouts:
        return (verdict,)
    try:
        return (verdict, judge.check_training(BALANCING_LAYOUT, auxiliary_loss=True))
    except UnsupportedError as refusal:
        coverage = {**verdict.coverage, "balancing loss": f"{NOT_COVERED}{refusal}"}
        return (replace(verdict, coverage=coverage),)


def _check_mixer(judge: Judge, name: str) -> Verdict:
    verdict = judge.choose_mixer(name).check_training("single")
    return replace(verdict, diagnosis=f"mixer {name}: {verdict.diagnosis}" if verdict.diagnosis else "")
