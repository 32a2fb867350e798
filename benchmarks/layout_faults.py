"""Planted faults in a copy of the real Fast-LLM, judged as the suite judges, and right runs of it in every layout.

    python -m benchmarks.layout_faults --python ENV/bin/python --checkout FAST_LLM [--faults] [--controls SEEDS]

The checkout is only read. In the copy AdamW's step is counted once (docs/findings.md): without that no run is green.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._figure import Figure, show
from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.fast_llm_faults import FAULTS, MEND_DOUBLE_STEP, FastLLMFault
from benchmarks.mutation.training_models import TRAINING_MODELS
from benchmarks.replay.recreation import copy_checkout, run_git
from ci.equivalence.judge import Judge
from ci.errors import SubjectError, UnsupportedError
from ci.subjects.fast_llm.offer import LAYOUTS_OFFERED
from ci.subjects.open_subject import open_subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.replay.records import Substitution
    from ci.equivalence.verdict import Verdict
    from ci.subjects.training import TrainRequest, TrainResult

CONVERSIONS = ("tp2",)
TIED = "qwen2"


@dataclass
class CurrentSubject:
    """The subject that a judge asks: whichever worker is open now, so that Hugging Face's side is computed once."""

    worker: Any = None

    def train(self, request: TrainRequest) -> TrainResult:
        """Train on the open worker."""
        result: TrainResult = self.worker.train(request)
        return result

    def release(self) -> None:
        """Unload the open worker's model."""
        self.worker.release()


@dataclass(frozen=True)
class FaultResult:
    """What became of a fault: caught or not, the first line of what was said, or why it could not run."""

    fault: FastLLMFault
    caught: bool
    diagnosis: str
    seconds: float
    reason: str = ""

    @property
    def named(self) -> bool:
        """Whether the diagnosis has the expected words."""
        return self.caught and re.search(self.fault.named, self.diagnosis) is not None

    @property
    def outcome(self) -> str:
        """One word for the list."""
        if self.reason:
            return "NOT RUN"
        return ("named" if self.named else "caught") if self.caught else "MISSED"


@dataclass
class CheckoutExperiment:
    """A copy of the checkout with the double step mended, and a judge for each model."""

    python: Path
    copy: Path
    folder: Path
    current: CurrentSubject = field(default_factory=CurrentSubject)
    judges: dict[str, Judge] = field(default_factory=dict)

    def judge(self, name: str, seed: int = 0) -> Judge:
        """Return the judge of a model, whose vocabulary two ranks can divide."""
        key = f"{name}-{seed}"
        if key not in self.judges:
            model = TRAINING_MODELS[name]
            even = replace(model, config_changes={**model.config_changes, "vocab_size": 152}, dtype="float32")
            (place := self.folder / key).mkdir()
            experiment = Experiment(even, place, seed=seed)
            self.judges[key] = experiment.judge(self.current, experiment.converted)  # type: ignore[arg-type]
        return self.judges[key]

    @contextmanager
    def open_worker(self) -> Iterator[None]:
        """Open a worker on the copy as it is now."""
        log = self.folder / "worker.log"
        with open_subject("fast_llm", python=self.python, path=(self.copy,), timeout=600, log=log) as worker:
            self.current.worker = worker
            yield

    def run_fault(self, fault: FastLLMFault) -> FaultResult:
        """Put a fault into the copy, run its check, and take it out again."""
        started = time.perf_counter()
        try:
            for edit in fault.edits:
                apply_edit(self.copy, edit)
        except ValueError as moved:
            return FaultResult(fault, caught=False, diagnosis="", seconds=0, reason=str(moved))
        try:
            with self.open_worker():
                verdict = self._run_check(fault)
                caught, diagnosis = not verdict.passed, verdict.diagnosis
        except SubjectError as error:
            if "the worker exited" in str(error):  # ranks die of faults, never the worker that starts them
                return FaultResult(fault, caught=False, diagnosis="", seconds=0, reason=str(error))
            caught, diagnosis = True, str(error)
        finally:
            run_git(self.copy, "checkout", "--quiet", "--", ".")
        return FaultResult(fault, caught, diagnosis, time.perf_counter() - started)

    def _run_check(self, fault: FastLLMFault) -> Verdict:
        judge = self.judge(fault.model)
        if fault.check == "resume":
            return judge.check_resume()
        if fault.check == "conversion":
            return judge.check_layout_conversion(CONVERSIONS)
        return judge.check_training(fault.layout)

    def run_controls(self, seeds: int) -> Iterator[tuple[str, bool, str]]:
        """Yield label, outcome and diagnosis of the right copy in every layout of every model."""
        with self.open_worker():
            for name, seed, layout in product(TRAINING_MODELS, range(seeds), LAYOUTS_OFFERED):
                if layout == "pp2_tied" and name != TIED:
                    continue
                label = f"{name}, seed {seed}, {layout}"
                try:
                    verdict = self.judge(name, seed).check_training(layout)
                    yield label, verdict.passed, verdict.diagnosis
                except UnsupportedError:
                    continue
                except SubjectError as error:
                    yield label, False, str(error)


def apply_edit(copy: Path, edit: Substitution) -> None:
    """Edit a file of the copy. Raises ValueError where the pattern is not there as often as it should be."""
    path = copy / edit.file
    text, count = re.subn(edit.pattern, lambda _: edit.replacement, path.read_text(encoding="utf-8"))
    if count != edit.count:
        raise ValueError(f"{edit.file}: found {count} times, expected {edit.count}: {edit.pattern}")
    path.write_text(text, encoding="utf-8")


@contextmanager
def open_experiment(python: Path, checkout: Path) -> Iterator[CheckoutExperiment]:
    """Copy the checkout, and mend and commit there what would make every run red."""
    with tempfile.TemporaryDirectory(prefix="faults.") as scratch:
        copy, folder = copy_checkout(checkout, Path(scratch) / "copy"), Path(scratch) / "work"
        folder.mkdir()
        apply_edit(copy, MEND_DOUBLE_STEP)
        identity = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
        run_git(copy, *identity, "commit", "--quiet", "--all", "--message", "Count the step once")
        yield CheckoutExperiment(python, copy, folder)


def show_faults(experiment: CheckoutExperiment, words: str, skip: int) -> list[Figure]:
    """Run the faults whose name has these words, print each, and return the counts."""
    results = []
    for fault in [fault for fault in FAULTS if words in fault.name][skip:]:
        result = experiment.run_fault(fault)
        results.append(result)
        print(f"{result.outcome}: {fault.name} [{fault.layout}]: {result.reason or result.diagnosis}", flush=True)
    ran = [result for result in results if not result.reason]
    count = len(ran)
    kinds = ", ".join(
        f"{sum(r.fault.kind == kind for r in ran)} of {kind}" for kind in ("parallelism", "training step")
    )
    return [
        Figure("faults in a copy of Fast-LLM caught", sum(r.caught for r in ran) / count, "=", 1.0, how=kinds),
        Figure("rank, collective or parameter named", sum(r.named for r in ran) / count, "≥", 0.8, how=f"of {count}"),
    ]


def show_controls(experiment: CheckoutExperiment, seeds: int) -> list[Figure]:
    """Run the right copy in every layout, print what is red, and return the count."""
    red = 0
    labels = []
    for label, passed, diagnosis in experiment.run_controls(seeds):
        labels.append(label)
        print(f"{'green' if passed else 'RED'}: {label}{'' if passed else f': {diagnosis}'}", flush=True)
        red += not passed
    return [Figure("red runs of the mended Fast-LLM", red, "=", 0, how=f"{len(labels)} runs")]


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layout_faults", description=__doc__)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--controls", type=int, default=0, metavar="SEEDS")
    parser.add_argument("--only", default="", metavar="WORDS", help="faults whose name has these words")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave the first N of them out")
    options = parser.parse_args()
    if options.faults and not any(options.only in fault.name for fault in FAULTS):
        parser.error(f"no fault's name has the words {options.only!r}")
    torch.set_num_threads(1)
    figures: list[Figure] = []
    with open_experiment(options.python, options.checkout) as experiment:
        if options.controls:
            figures += show_controls(experiment, options.controls)
        if options.faults:
            figures += show_faults(experiment, options.only, options.skip)
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
