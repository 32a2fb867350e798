"""All faults of training steps: parallelism, optimizer, accumulation, resume."""

from __future__ import annotations

from benchmarks.mutation.parallel_faults import PARALLEL_FAULTS
from benchmarks.mutation.step_faults import STEP_FAULTS
from benchmarks.mutation.training_fault import REFERENCE, TrainingFault

__all__ = ["FAULTS", "REFERENCE", "TrainingFault"]

FAULTS: tuple[TrainingFault, ...] = (*PARALLEL_FAULTS, *STEP_FAULTS)
"""Each with the layout in which it must be caught, and the words by which the diagnosis names it."""
