"""Served exports in a real engine: right ones must pass, and planted faults must be found.

    python -m benchmarks.served [--consumer-python ENV/bin/python] [--controls N] [--faults] [--only WORDS]
                                [--subject-python PYTHON --subject-path CHECKOUT]

Controls are right exports of many models, seeds, published dtypes and forms: what the reference exports, what
transformers saves again, the same tensors in several files or in float32; with a subject's interpreter also what
Fast-LLM exports. N counts comparisons: an input in one dtype, or its greedy continuations. Each result is printed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks._figure import Figure, show
from benchmarks._served_forms import FORMS, WRITERS, Exporter
from ci.consumers.base import Consumer
from ci.consumers.open_consumer import find_interpreter, open_consumer
from ci.consumers.registry import CONSUMERS
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.served_export import ServedExport
from ci.equivalence.served_verdict import LOGPROBS
from ci.equivalence.verdict import Verdict
from ci.errors import HubTestsError, UnsupportedError
from ci.models import TestParams
from ci.settings import from_environ
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.open_subject import open_subject
from ci.subjects.sandbox import choose_isolation
from tests.ci.equivalence.served_faults import FAULTS, KIN, Fault, plant_fault
from tests.ci.equivalence.served_models import LIBRARY, RECIPES, build_served, find_format

if TYPE_CHECKING:
    from ci.consumers.base import (
        ConsumerDescription,
        ContinueRequest,
        ContinueResult,
        ScoreRequest,
        ScoreResult,
    )
    from ci.equivalence.input_case import InputCase
    from ci.models import Policy
    from ci.subjects.base import DType


SECONDS = 900.0
DTYPES: tuple[DType, ...] = ("bfloat16", "bfloat16", "float16", "float32")
"""The published dtypes of the controls, in turn: most models are published in bfloat16."""


@dataclass
class TimedConsumer:
    """Passes requests on to an engine, and adds up the seconds of its starts and of its work."""

    engine: Consumer
    starts: int = 0
    starting: float = 0.0
    working: float = 0.0

    def describe(self) -> ConsumerDescription:
        """Ask the engine."""
        return self.engine.describe()

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Score, and count the start that it needed."""
        result = self.engine.score(request)
        self.starts += result.load_seconds > 0
        self.starting += result.load_seconds
        self.working += result.seconds
        return result

    def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
        """Continue."""
        result = self.engine.continue_greedily(request)
        self.working += result.seconds
        return result

    def release(self) -> None:
        """Shut the engine down."""
        self.engine.release()


@dataclass(frozen=True)
class Outcome:
    """What became of one export: its verdicts, or why there is none."""

    label: str
    verdicts: tuple[Verdict, ...]
    seconds: float
    problem: str = ""

    @property
    def comparisons(self) -> int:
        """How many comparisons were made: an input, or the continuations, in one dtype."""
        return sum(len(verdict.measures) for verdict in self.verdicts)

    @property
    def red(self) -> int:
        """How many of them failed."""
        return sum(not measure.passed for verdict in self.verdicts for measure in verdict.measures)

    @property
    def diagnosis(self) -> str:
        """What was said first about it, "" of an export that passed."""
        return self.problem or next((verdict.diagnosis for verdict in self.verdicts if not verdict.passed), "")

    @property
    def ratio(self) -> float:
        """The largest gap of the export over the original's."""
        measures = [measure for verdict in self.verdicts for measure in verdict.measures if measure.tensor == LOGPROBS]
        return max((measure.ratio or 0.0 for measure in measures), default=0.0)


@dataclass
class ExportExperiment:
    """An engine, a scratch directory, and the exporter; each export takes `draws` seeds of the inputs."""

    consumer: TimedConsumer
    folder: Path
    exporter: Exporter
    draws: int = 2
    counter: Iterator[int] = field(default_factory=itertools.count)

    def run_control(self, model: str, form: str, dtype: DType, seed: int) -> Outcome | None:
        """Serve one right export; None where the form does not have this model."""
        place = self.folder / f"control-{next(self.counter)}"
        original = build_served(model, place / "original", dtype=dtype, seed=seed)
        try:
            exported = self.exporter.export(form, model, original, place / "exported", dtype)
        except UnsupportedError:
            return None
        except HubTestsError as refused:  # no export, so no control: the forward test's finding about the subject
            print(f"no export: {model}, {form}, {dtype}, seed {seed}: {refused}", flush=True)
            return None
        return self._serve(f"{model}, {form}, {dtype}, seed {seed}", original, exported, draws=self.draws)

    def run_fault(self, name: str, fault: Fault) -> Outcome:
        """Serve an export with a planted fault, as strictly as an entry can ask for."""
        place = self.folder / f"fault-{next(self.counter)}"
        original = build_served(fault.model, place / "original")
        return self._serve(name, original, plant_fault(fault, original, place / "exported"), policy="strict")

    def _serve(self, label: str, original: Path, exported: Path, *, draws: int = 1, policy: Policy = "warn") -> Outcome:
        started = time.perf_counter()
        reference = ReferenceRun(original, TestParams(), HuggingFace(), "cpu", original.with_name("reference"))
        if draws > 1:
            cases = join_inputs(reference, draws)
            reference = reference.for_checkpoint(original, original.with_name("reference"), cases)
        try:
            served = ServedExport(reference, self.consumer, exported, original.with_name("served"), policy=policy)
            verdicts, problem = served.check(), ""
        except HubTestsError as error:
            verdicts, problem = (), str(error)
        return Outcome(label, verdicts, time.perf_counter() - started, problem)


def join_inputs(reference: ReferenceRun, draws: int) -> tuple[InputCase, ...]:
    """Join the inputs of several seeds, so that one start of the engine scores them."""
    cases = list(reference.cases)
    for draw in range(1, draws):
        other = ReferenceRun(reference.checkpoint, reference.params, HuggingFace(), "cpu", reference.workdir, draw)
        for case in other.cases:
            part_of = f"{case.part_of}, draw {draw}" if case.part_of else ""
            cases.append(replace(case, name=f"{case.name}, draw {draw}", part_of=part_of))
    return tuple(cases)


def list_controls(words: str, forms: tuple[str, ...]) -> Iterator[tuple[str, str, DType, int]]:
    """Yield model, form, published dtype and seed without end: models change fastest, and each meets every form."""
    models = [name for name in (*RECIPES, *LIBRARY) if words in name]
    for seed in itertools.count():
        for number, model in enumerate(models):
            offered = [form for form in forms if form in WRITERS or find_format(model)]
            yield model, offered[(number + seed) % len(offered)], DTYPES[(number + seed) % len(DTYPES)], seed


def show_controls(experiment: ExportExperiment, wanted: int, words: str, forms: tuple[str, ...]) -> list[Figure]:
    """Serve right exports until `wanted` comparisons are made; print each, and return the counts."""
    outcomes: list[Outcome] = []
    for control in list_controls(words, forms):
        if sum(outcome.comparisons for outcome in outcomes) >= wanted or control[3] > wanted:
            break
        if outcome := experiment.run_control(*control):
            outcomes.append(outcome)
            said = f"RED: {outcome.diagnosis}" if outcome.diagnosis else f"green, {outcome.ratio:.3f} of the original's"
            print(f"{outcome.label}: {outcome.comparisons} comparisons, {said}, {outcome.seconds:.0f} s", flush=True)
    made = sum(outcome.comparisons for outcome in outcomes)
    how = f"{made} comparisons of {len(outcomes)} exports, {len({o.label.split(',')[0] for o in outcomes})} models"
    red = sum(max(outcome.red, bool(outcome.diagnosis)) for outcome in outcomes)
    ratio = max((outcome.ratio for outcome in outcomes), default=0.0)
    return [
        Figure("red comparisons of right exports", red, "=", 0, how=how),
        Figure("comparisons", made, "≥", wanted, how=f"{experiment.consumer.starts} starts of the engine"),
        Figure("largest gap of an export ÷ its original's", ratio, "≤", 1.2),
        _make_time_figure(experiment.consumer, sum(outcome.seconds for outcome in outcomes), made),
    ]


def show_faults(experiment: ExportExperiment, words: str) -> list[Figure]:
    """Serve exports with planted faults, print each, and return how many were caught and named."""
    faults = {name: fault for name, fault in (FAULTS | KIN).items() if words in name}
    caught = named = 0
    for name, fault in faults.items():
        outcome = experiment.run_fault(name, fault)
        found = any(not verdict.passed for verdict in outcome.verdicts)
        right = found and re.search(fault.named, outcome.diagnosis) is not None
        caught, named = caught + found, named + right
        word = ("named" if right else "caught") if found else "MISSED"
        print(f"{word}: {name} [{fault.model}]: {outcome.diagnosis}", flush=True)
    return [
        Figure("planted faults of exports caught", caught / len(faults), "=", 1.0, how=f"{caught} of {len(faults)}"),
        Figure("kind of fault named", named / len(faults), "=", 1.0, how=f"{named} of {len(faults)}"),
    ]


def _make_time_figure(consumer: TimedConsumer, seconds: float, comparisons: int) -> Figure:
    """Return the seconds a comparison took, and what they went into."""
    starting, working = consumer.starting / seconds, consumer.working / seconds
    how = f"{seconds:.0f} s: {starting:.0%} starts of the engine, {working:.0%} its work, the rest Hugging Face's side"
    return Figure("seconds a comparison", seconds / max(1, comparisons), "≤", SECONDS, "s", how=how)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__)
    parser.add_argument("--consumer", choices=tuple(CONSUMERS), default="vllm")
    parser.add_argument("--consumer-python", type=Path, help="default: that of the engine's environment")
    parser.add_argument("--controls", type=int, default=0, metavar="N", help="comparisons of right exports")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--only", default="", metavar="WORDS", help="models, or faults, whose name has these words")
    parser.add_argument("--form", choices=FORMS, action="append", help="of the controls; default: all that are here")
    parser.add_argument("--draws", type=int, default=2, metavar="N", help="seeds of the inputs of a control")
    parser.add_argument("--subject-python", type=Path, help="interpreter that has Fast-LLM, to export too")
    parser.add_argument("--subject-path", type=Path, action="append", default=[])
    options = parser.parse_args()
    if options.faults and not any(options.only in name for name in FAULTS | KIN):
        parser.error(f"no fault's name has the words {options.only!r}")
    torch.set_num_threads(1)
    forms = tuple(options.form or (form for form in FORMS if form != "fast_llm" or options.subject_python))
    figures: list[Figure] = []
    with open_experiment(options) as experiment:
        if options.controls:
            figures += show_controls(experiment, options.controls, options.only, forms)
        if options.faults:
            figures += show_faults(experiment, options.only)
    return show(figures)


@contextmanager
def open_experiment(options: argparse.Namespace) -> Iterator[ExportExperiment]:
    """Open the engine, and the subject where one is named, for the length of the context."""
    roots = from_environ(os.environ).environment_roots
    python, variables = find_interpreter(options.consumer, roots, options.consumer_python)
    isolation = choose_isolation("auto")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="served.")))
        subject = None
        if options.subject_python:
            own = {"python": options.subject_python, "path": tuple(options.subject_path), "timeout": SECONDS}
            subject = stack.enter_context(open_subject("fast_llm", **own, log=folder / "subject.log"))
        engine = open_consumer(
            options.consumer,
            python=python,
            timeout=SECONDS,
            log=folder / "engine.log",
            isolation=isolation,
            variables=variables,
        )
        consumer = TimedConsumer(stack.enter_context(engine))
        yield ExportExperiment(consumer, folder, Exporter(subject), draws=options.draws)


if __name__ == "__main__":
    sys.exit(main())
