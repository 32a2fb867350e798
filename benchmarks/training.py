"""Planted faults of training steps, and clean controls over layouts, seeds, models and dtypes.

    python -m benchmarks.training [--faults] [--controls SEEDS] [--only WORDS] [--json FILE]

A fault is caught where its check fails, or the subject refuses; it is named where the diagnosis has the expected words.
A control is a right run in one layout: everything that is red there is a false alarm.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks._figure import Figure, show
from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.training_faults import FAULTS, TrainingFault
from benchmarks.mutation.training_models import TRAINING_MODELS
from ci.errors import UnsupportedError
from ci.subjects.reference.offer import LAYOUTS_OFFERED
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.equivalence.judge import Judge
    from ci.equivalence.verdict import Verdict

CONVERSIONS = ("tp2", "pp2", "zero2")


@dataclass(frozen=True)
class FaultResult:
    """What became of a planted fault: whether it was caught, whether its diagnosis names it, and that diagnosis."""

    fault: TrainingFault
    caught: bool
    diagnosis: str
    seconds: float

    @property
    def named(self) -> bool:
        """Whether the diagnosis has the expected words."""
        return self.caught and re.search(self.fault.named, self.diagnosis) is not None


def run_fault(fault: TrainingFault, judge: Judge) -> FaultResult:
    """Inject one fault and run its check; a subject that refuses or dies has caught it, and its message is judged."""
    judge.check_training(fault.layout, auxiliary_loss=fault.check == "balancing")  # Hugging Face's side, once
    started = time.perf_counter()
    with fault.injected(), redirect_stderr(StringIO()):
        try:
            verdict = run_check(fault, judge)
            caught, diagnosis = not verdict.passed, verdict.diagnosis
        except Exception as error:  # whatever ends the run is red in the suite
            caught, diagnosis = True, str(error)
    return FaultResult(fault, caught, diagnosis, time.perf_counter() - started)


def run_check(fault: TrainingFault, judge: Judge) -> Verdict:
    """Run the check that must catch a fault."""
    if fault.check == "resume":
        return judge.check_resume()
    if fault.check == "conversion":
        return judge.check_layout_conversion((fault.layout,) if fault.layout != "single" else CONVERSIONS[:1])
    return judge.check_training(fault.layout, auxiliary_loss=fault.check == "balancing")


def run_controls(seeds: int) -> Iterator[tuple[str, bool, float, str]]:
    """Yield label, outcome, share of the limit and diagnosis of each right run: of a model, a seed and a layout."""
    for seed, name in product(range(seeds), TRAINING_MODELS):
        with tempfile.TemporaryDirectory() as scratch:
            experiment = Experiment(TRAINING_MODELS[name], Path(scratch), seed=seed)
            judge = experiment.judge(ReferenceSubject(), experiment.converted)
            for layout, balancing in product(LAYOUTS_OFFERED, (False, True) if name == "mixtral" else (False,)):
                try:
                    verdict = judge.check_training(layout, auxiliary_loss=balancing)
                except UnsupportedError:
                    continue
                label = f"{name}, seed {seed}, {layout}{', balancing loss' if balancing else ''}"
                yield label, verdict.passed, verdict.worst.used if verdict.worst else 0.0, verdict.diagnosis


def run_faults(words: str) -> Iterator[FaultResult]:
    """Yield the result of each fault whose name has these words."""
    for name, model in TRAINING_MODELS.items():
        wanted = [fault for fault in FAULTS if fault.model == name and words in fault.name]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            experiment = Experiment(model, Path(scratch))
            judge = experiment.judge(ReferenceSubject(), experiment.converted)
            yield from (run_fault(fault, judge) for fault in wanted)


def make_fault_figures(results: list[FaultResult]) -> list[Figure]:
    """Return the counts of faults caught and named."""
    caught, named, count = sum(r.caught for r in results), sum(r.named for r in results), len(results)
    by_kind = ", ".join(
        f"{sum(r.fault.kind == kind for r in results)} of {kind}" for kind in ("parallelism", "training step")
    )
    return [
        Figure("planted training faults caught", caught / count, "=", 1.0, how=f"{caught} of {count}: {by_kind}"),
        Figure("rank, collective or parameter named", named / count, "≥", 0.8, how=f"{named} of {count}"),
    ]


def main() -> int:
    """Run what was asked for; print each miss and each false alarm at once, then the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--faults", action="store_true", help="inject every fault")
    parser.add_argument("--controls", type=int, default=0, metavar="SEEDS", help="run right layouts with so many seeds")
    parser.add_argument("--only", default="", metavar="WORDS", help="faults whose name has these words")
    options = parser.parse_args()
    if options.faults and not any(options.only in fault.name for fault in FAULTS):
        parser.error(f"no fault's name has the words {options.only!r}")
    torch.set_num_threads(1)
    figures: list[Figure] = []
    if options.faults:
        figures += show_faults(options.only)
    if options.controls:
        figures.append(show_controls(options.controls))
    return show(figures)


def show_faults(words: str) -> list[Figure]:
    """Run the faults whose name has these words, print what became of each, and return the figures."""
    results = []
    for result in run_faults(words):
        results.append(result)
        outcome = "named" if result.named else ("caught" if result.caught else "MISSED")
        print(f"{outcome}: {result.fault.name}: {result.diagnosis}", file=sys.stderr, flush=True)
    return make_fault_figures(results)


def show_controls(seeds: int) -> Figure:
    """Run the right layouts, print each false alarm, and return their number."""
    alarms, shares = 0, []
    for label, passed, share, diagnosis in run_controls(seeds):
        shares.append(share)
        if not passed:
            alarms += 1
            print(f"false alarm: {label}: {diagnosis}", file=sys.stderr, flush=True)
    how = f"{len(shares)} right runs, at most {max(shares):.0%} of a limit used"
    return Figure("false alarms of training steps", alarms, "=", 0, how=how)


if __name__ == "__main__":
    sys.exit(main())
