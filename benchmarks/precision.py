"""The precision lens: how many mistakes of precision alone it tells, and how often it alarms on right implementations.

    python -m benchmarks precision

Each mistake is injected into the reference's forward alone, in bfloat16 and in float16. Clean comparisons: seeds x
small models x both dtypes x every variant, Hugging Face's own included, right partial sums and the equal rewrites. One
comparison is one operation of one layer in one run.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._figure import Figure, show
from benchmarks.mutation.equal_rewrites import EQUAL_REWRITES
from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.injection import MutantSubject, Mutation
from benchmarks.mutation.precision_mutations import PRECISION_MUTATIONS, RIGHT_VARIANTS
from benchmarks.mutation.tiny_models import TINY_MODELS, TinyModel
from ci.subjects.base import ConvertRequest, DType, Subject
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from ci.equivalence.verdict import Verdict

SEEDS = 3
DTYPES: tuple[DType, ...] = ("bfloat16", "float16")
MODELS = ("dense", "biased", "window", "moe", "tied", "yarn")
MISTAKEN = ("dense", "moe")


@dataclass(frozen=True)
class Told:
    """One injected mistake: the first finding names the right operation, an ordinary tolerance is exceeded, words."""

    mutation: Mutation
    model: str
    located: bool
    red: bool
    finding: str


def figures() -> list[Figure]:
    """Measure both, print each miss and each alarm at once."""
    told = [result for name in MISTAKEN for dtype in DTYPES for result in tell_mistakes(name, dtype)]
    for result in told:
        print(f"{result.model}: {result.mutation.name}: {result.finding or 'MISSED'}", file=sys.stderr, flush=True)
    kinds = len({result.mutation.bug_class for result in told if result.located})
    green = sum(result.located and not result.red for result in told)
    how = f"{len(PRECISION_MUTATIONS)} mistakes of {kinds} kinds; {green} within the ordinary tolerance"
    missed = sum(not result.located for result in told)
    clean = [run for seed in range(SEEDS) for name in MODELS for dtype in DTYPES for run in run_clean(name, dtype, seed)]
    compared, alarms = sum(count for count, _ in clean), sum(len(found) for _, found in clean)
    return [
        Figure(f"mistakes of precision not told, of {len(told)}", missed, "≤", 0, how=how),
        Figure("clean comparisons", compared, "≥", 1000, how=f"{len(clean)} runs, {SEEDS} seeds, {len(MODELS)} models"),
        Figure("false alarms of the precision lens", alarms, "≤", 0, how=f"of {compared} comparisons"),
    ]


def tell_mistakes(name: str, dtype: DType, mutations: tuple[Mutation, ...] = PRECISION_MUTATIONS) -> Iterator[Told]:
    """Yield what is told about each mistake in one small model."""
    with _make_experiment(name, dtype, 0) as experiment:
        for mutation in (m for m in mutations if m.applies_to(experiment.tiny_model)):
            judge = experiment.judge(MutantSubject(mutation), experiment.converted, explain=False)
            judge.check_forward(dtype="float32", variant={})
            verdict = judge.check_forward(dtype="model", variant={})
            found = _list_findings(verdict)
            located = bool(found) and all(mutation.matches_location(tensor) for tensor in judge.imprecise[:1])
            yield Told(mutation, f"{name} {dtype}", located, not verdict.passed, found[0] if found else "")


def run_clean(name: str, dtype: DType, seed: int) -> Iterator[tuple[int, list[str]]]:
    """Yield for each right implementation how many operations were compared, and the alarms."""
    with _make_experiment(name, dtype, seed) as experiment:
        reference, lens = experiment.reference, experiment.reference.lens
        reference.get_tolerances(reference.cases[0], dtype)
        for subject, converted, variant in _list_right(experiment):
            verdict = experiment.judge(subject, converted, explain=False).check_forward(dtype="model", variant=variant)
            for alarm in (found := _list_findings(verdict)):
                print(f"ALARM: {name} {dtype} seed {seed} {subject} {variant}: {alarm}", file=sys.stderr, flush=True)
            yield len(lens.formulas) + 2 * len(experiment.reference.config_layers), found


def _list_right(experiment: Experiment) -> Iterator[tuple[Subject, Path, dict[str, str]]]:
    subject = ReferenceSubject()
    for offered in subject.variants(str(experiment.converted)):
        yield subject, experiment.converted, {offered.axis: offered.name}
    for mutation in (*RIGHT_VARIANTS, *EQUAL_REWRITES):
        rewritten, converted = MutantSubject(mutation), experiment.workdir / "rewritten"
        shutil.rmtree(converted, ignore_errors=True)
        request = ConvertRequest(str(experiment.source), str(converted), experiment.tiny_model.model_type)
        rewritten.convert(request)
        yield rewritten, converted, {}
