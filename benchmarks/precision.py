"""The precision lens: how many mistakes of precision alone it tells, and how often it alarms on right implementations.

    python -m benchmarks precision

Each mistake is injected into the reference's forward alone, in bfloat16 and in float16. Clean comparisons: seeds x
small models x both dtypes x every variant of the reference, other right orders of roundings, and the equal rewrites.
One comparison is one operation of one layer in one run.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._figure import Figure, show
from benchmarks.mutation.equal_rewrites import EQUAL_REWRITES
from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.injection import MutantSubject, Mutation
from benchmarks.mutation.precision_mutations import PRECISION_MUTATIONS, RIGHT_VARIANTS
from benchmarks.mutation.tiny_models import TINY_MODELS
from ci.subjects.base import ConvertRequest, DType
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import Subject

SEEDS = 3
DTYPES: tuple[DType, ...] = ("bfloat16", "float16")
MODELS = ("dense", "biased", "window", "moe", "tied", "yarn")
MISTAKEN = ("dense", "moe")


@dataclass(frozen=True)
class MistakeResult:
    """One injected mistake: the first finding names the right operation, an ordinary tolerance is exceeded, words."""

    mutation: Mutation
    model: str
    located: bool
    red: bool
    finding: str


def figures() -> list[Figure]:
    """Measure both, print each miss and each alarm at once."""
    results = [result for name in MISTAKEN for dtype in DTYPES for result in run_mistakes(name, dtype)]
    for result in results:
        print(f"{result.model}: {result.mutation.name}: {result.finding or 'MISSED'}", file=sys.stderr, flush=True)
    kinds = len({result.mutation.bug_class for result in results if result.located})
    green = sum(result.located and not result.red for result in results)
    how = f"{len(PRECISION_MUTATIONS)} mistakes of {kinds} kinds; {green} within the ordinary tolerance"
    missed = sum(not result.located for result in results)
    clean = [
        run for seed in range(SEEDS) for name in MODELS for dtype in DTYPES for run in run_clean(name, dtype, seed)
    ]
    compared, alarms = sum(count for count, _ in clean), sum(len(found) for _, found in clean)
    return [
        Figure(f"mistakes of precision not told, of {len(results)}", missed, "≤", 0, how=how),
        Figure("clean comparisons", compared, "≥", 1000, how=f"{len(clean)} runs, {SEEDS} seeds, {len(MODELS)} models"),
        Figure("false alarms of the precision lens", alarms, "≤", 0, how=f"of {compared} comparisons"),
    ]


def run_mistakes(
    name: str, dtype: DType, mutations: tuple[Mutation, ...] = PRECISION_MUTATIONS
) -> Iterator[MistakeResult]:
    """Yield what is found of each mistake in one small model."""
    with _make_experiment(name, dtype, 0) as experiment:
        for mutation in (m for m in mutations if m.applies_to(experiment.tiny_model)):
            judge = experiment.judge(MutantSubject(mutation), experiment.converted, explain=False)
            judge.check_forward(dtype="float32", variant={})
            verdict = judge.check_forward(dtype="model", variant={})
            first = next(iter(list_findings(verdict)), "")
            yield MistakeResult(mutation, f"{name} {dtype}", is_located(mutation, first), not verdict.passed, first)


def run_clean(name: str, dtype: DType, seed: int) -> Iterator[tuple[int, list[str]]]:
    """Yield for each right implementation how many operations were compared, and the alarms."""
    with _make_experiment(name, dtype, seed) as experiment:
        for what, subject, converted, variant in _list_right(experiment):
            verdict = experiment.judge(subject, converted, explain=False).check_forward(dtype="model", variant=variant)
            for alarm in (found := list_findings(verdict)):
                print(f"ALARM: {name} {dtype} seed {seed}, {what}: {alarm}", file=sys.stderr, flush=True)
            yield int(verdict.figures.get(f"{dtype}.precision_operations", 0)), found


def list_findings(verdict: Verdict) -> list[str]:
    """Return the precision findings among the warnings."""
    return [warning for warning in verdict.warnings if warning.startswith("precision: ")]


def is_located(mutation: Mutation, finding: str) -> bool:
    """Return whether the words of a finding name the operation of the mistake."""
    words = re.match(r"precision: (\S+)(?: in layer (\d+))?", finding)
    if words is None:
        return False
    return mutation.matches_location(words[1] if words[2] is None else tensor_name(int(words[2]), words[1]))


@contextmanager
def _make_experiment(name: str, dtype: DType, seed: int) -> Iterator[Experiment]:
    with tempfile.TemporaryDirectory() as scratch:
        yield Experiment(replace(TINY_MODELS[name], dtype=dtype), Path(scratch), seed=seed)


def _list_right(experiment: Experiment) -> Iterator[tuple[str, Subject, Path, dict[str, str]]]:
    """Yield a label, the subject, its conversion and its variant."""
    subject = ReferenceSubject()
    for offered in subject.variants(str(experiment.converted)):
        yield offered.name, subject, experiment.converted, {offered.axis: offered.name}
    for mutation in (*RIGHT_VARIANTS, *EQUAL_REWRITES):
        rewritten, converted = MutantSubject(mutation), experiment.workdir / "rewritten"
        shutil.rmtree(converted, ignore_errors=True)
        model_type = experiment.tiny_model.model_type
        rewritten.convert(ConvertRequest(str(experiment.source), str(converted), model_type))
        yield mutation.name, rewritten, converted, {}


if __name__ == "__main__":
    sys.exit(show(figures()))
