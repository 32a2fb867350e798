"""The mutation score: how many injected bugs are caught, located and attributed, and how many false alarms there are.

    python -m benchmarks mutation

Each bug of the catalogue is injected alone into each tiny model that can have it. A bug that does not change Hugging
Face's own logits is an equivalent mutant and does not count. The published rules of other projects are applied to the
same bugs. The negative control judges correct conversions: seeds x tiny models x dtypes x variants.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.mutation.experiment import MutationResult
from ci.errors import RequestError

TOLERANCES = ("hub-tests: float32 tolerance", "hub-tests: native-dtype tolerance", "hub-tests: both tolerances")
DEEP_ROW = "**hub-tests: both tolerances and --deep**"
LENS_ROW = "hub-tests: told by a precision warning"
Predicate = Callable[[MutationResult], bool]
CHUNKS = 3
"""The bugs of a tiny model are divided over this many tasks. Each makes its own reference run."""


@dataclass(frozen=True)
class MutationOptions:
    """The tiny models (default: all), the number of processes, and the seeds of the negative controls.

    `bugs` are the names of those to inject; none means all.
    """

    tiny_models: tuple[str, ...] = ()
    jobs: int = 1
    seeds: int = 25
    rewrite_seeds: int = 1
    bugs: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Control:
    """A correct conversion that was tested. `used`: the share of its tolerance that the worst tensor used."""

    tiny_model: str
    seed: int
    dtype: str
    variant: str
    passed: bool
    used: float
    diagnosis: str = ""


@dataclass(frozen=True)
class MutationScore:
    """All mutation results and controls. `rule_false_alarms`: how often each published rule rejects a correct one.

    `rewrites` are controls too: conversions that compute the same in another way.
    """

    results: tuple[MutationResult, ...]
    controls: tuple[Control, ...] = ()
    rewrites: tuple[Control, ...] = ()
    rule_false_alarms: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def real(self) -> tuple[MutationResult, ...]:
        """The injected bugs that change the logits of Hugging Face."""
        return tuple(result for result in self.results if not result.equivalent)

    @property
    def caught(self) -> int:
        """How many of the real bugs a tolerance, or their check of `--deep`, caught."""
        return sum(result.caught_by_any for result in self.real)

    @property
    def located(self) -> int:
        """How many of the real bugs were located in the correct layer and module."""
        return sum(result.located for result in self.real)

    @property
    def attributed(self) -> int:
        """How many of the caught bugs were attributed to the correct component."""
        return sum(result.caught_by_any and result.attributed_to == result.component for result in self.real)

    @property
    def false_alarms(self) -> tuple[Control, ...]:
        """The correct conversions and equal rewrites that failed."""
        return tuple(control for control in (*self.controls, *self.rewrites) if not control.passed)


def run_mutation_score(options: MutationOptions, *, progress: Callable[[str], None] = lambda _: None) -> MutationScore:
    """Inject, judge and count. Call `progress` with one line for each finished task.

    Raises RequestError for an unknown tiny model.
    """
    names = _select_tiny_models(options.tiny_models)
    started = time.monotonic()
    tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (_inject_bugs, (name, chunk, options.device, options.bugs)) for name in names for chunk in range(CHUNKS)
    ]
    tasks += [(_run_control, (name, seed, options.device)) for seed in range(options.seeds) for name in names]
    tasks += [(_run_rewrites, (name, seed, options.device)) for seed in range(options.rewrite_seeds) for name in names]
    results: list[MutationResult] = []
    controls: dict[Any, list[Control]] = {_run_control: [], _run_rewrites: []}
    alarms: dict[str, int] = {}
    for (work, arguments), answer in zip(tasks, _run(tasks, options.jobs), strict=True):
        if work is _inject_bugs:
            results += answer[0]
            alarms = {rule: alarms.get(rule, 0) + count for rule, count in answer[1].items()}
            progress(f"{arguments[0]}: {len(answer[0])} bugs injected, part {arguments[1] + 1} of {CHUNKS}")
        else:
            controls[work] += answer
            kind = "correct conversions" if work is _run_control else "equal rewrites"
            progress(f"{arguments[0]}, seed {arguments[1]}: {len(answer)} {kind} tested")
    seconds = time.monotonic() - started
    return MutationScore(tuple(results), tuple(controls[_run_control]), tuple(controls[_run_rewrites]), alarms, seconds)


def to_markdown(score: MutationScore) -> str:
    """Return the table for docs/figures.md: a row for each rule, a column for each tiny model."""
    groups = {
        tiny_model: [o for o in score.real if o.tiny_model == tiny_model] for tiny_model in _names_in_order(score.real)
    }
    head = ["rule", *(f"{name} ({len(group)})" for name, group in groups.items()), f"all ({len(score.real)})"]
    rows = [[name, *_counts(groups, score.real, catches)] for name, catches in _rules(score)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([*lines, "", *_sentences(score)])


def _sentences(score: MutationScore) -> list[str]:
    real, caught = len(score.real), score.caught
    alarms = [f"{rule} fails {count}" for rule, count in score.rule_false_alarms.items() if count]
    used = max((control.used for control in (*score.controls, *score.rewrites)), default=0.0)
    deep = sum(result.caught_deep for result in score.real)
    clean, equal = len(score.controls), len(score.rewrites)
    located, component = _share(score.located, real), _share(score.attributed, caught)
    lines = [
        f"{real} injected bugs count; {len(score.results) - real} more do not change Hugging Face's logits.",
        f"Caught {caught}, {deep} of them by a check of --deep alone.",
        f"Located in the correct layer and module: {located}. Correct component: {component}.",
        f"{clean} correct conversions and {equal} equal rewrites tested: {len(score.false_alarms)} false alarms.",
        f"Their worst tensor used {used:.0%} of its tolerance.",
    ]
    return lines + [
        f"Of {CHUNKS * len(_names_in_order(score.results))} correct conversions, {'; '.join(alarms)}."
    ] * bool(alarms)


def _rules(score: MutationScore) -> Iterator[tuple[str, Predicate]]:
    published = list(dict.fromkeys(rule for result in score.real for rule in result.rules))
    for rule in published:
        yield rule, lambda result, rule=rule: result.rules.get(rule, False)  # type: ignore[misc]
    yield TOLERANCES[0], lambda result: result.caught_float32
    yield TOLERANCES[1], lambda result: result.caught_native_dtype
    yield TOLERANCES[2], lambda result: result.caught
    yield DEEP_ROW, lambda result: result.caught_by_any
    yield LENS_ROW, lambda result: result.precision_warnings > 0


def _counts(
    groups: Mapping[str, list[MutationResult]], real: Sequence[MutationResult], catches: Predicate
) -> list[int]:
    return [sum(map(catches, group)) for group in (*groups.values(), real)]


def _names_in_order(results: Sequence[MutationResult]) -> list[str]:
    return list(dict.fromkeys(result.tiny_model for result in results))


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none"


def _select_tiny_models(wanted: Sequence[str]) -> tuple[str, ...]:
    from benchmarks.mutation.tiny_models import TINY_MODELS

    unknown = [name for name in wanted if name not in TINY_MODELS]
    if unknown:
        raise RequestError(f"no tiny model '{unknown[0]}'; choose from {', '.join(TINY_MODELS)}")
    return tuple(wanted) or tuple(TINY_MODELS)


def _run(tasks: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], jobs: int) -> Iterator[Any]:
    """Yield the results in the order of the tasks.

    Processes are spawned, because torch does not survive a fork.
    """
    if jobs < 2:
        yield from (work(*arguments) for work, arguments in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(work, *arguments) for work, arguments in tasks]
        yield from (future.result() for future in futures)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _inject_bugs(
    name: str, chunk: int, device: str, bugs: tuple[str, ...]
) -> tuple[list[MutationResult], dict[str, int]]:
    """Run every CHUNKS-th bug of a tiny model, and the published rules on its correct conversion."""
    from benchmarks.mutation.catalogue import catalogue, deep_catalogue
    from benchmarks.mutation.experiment import Experiment, extend_context
    from benchmarks.mutation.tiny_models import TINY_MODELS

    tiny_model = TINY_MODELS[name]
    with tempfile.TemporaryDirectory() as workdir:
        experiment = Experiment(tiny_model, Path(workdir, "near"), seed=chunk, device=device)
        wanted = [bug for bug in catalogue() if bug.applies_to(tiny_model) and (not bugs or bug.name in bugs)]
        results = [experiment.run_mutation(bug) for bug in wanted[chunk::CHUNKS]]
        deep = [bug for bug in deep_catalogue() if bug.mutation.applies_to(tiny_model)]
        deep = [bug for bug in deep if not bugs or bug.mutation.name in bugs][chunk::CHUNKS]
        far = [bug for bug in deep if bug.check == "positions"]
        results += [experiment.run_deep_bug(bug) for bug in deep if bug not in far]
        if far:
            distant = Experiment(extend_context(tiny_model), Path(workdir, "far"), seed=chunk, device=device)
            results += [distant.run_deep_bug(bug) for bug in far]
        return results, experiment.find_rule_false_alarms()


def _run_rewrites(name: str, seed: int, device: str) -> list[Control]:
    """Judge every equal rewrite of a conversion, with weights and inputs of this seed."""
    from benchmarks.mutation.equal_rewrites import EQUAL_REWRITES
    from benchmarks.mutation.experiment import Experiment
    from benchmarks.mutation.tiny_models import TINY_MODELS

    with tempfile.TemporaryDirectory() as workdir:
        experiment = Experiment(TINY_MODELS[name], Path(workdir), seed=2000 + seed, device=device)
        return [
            Control(name, seed, dtype, rewrite.name, verdict.passed, verdict.worst.used, verdict.diagnosis)
            for rewrite in EQUAL_REWRITES
            for dtype, verdict in experiment.judge_equal_rewrite(rewrite)
            if verdict.worst
        ]


def _run_control(name: str, seed: int, device: str) -> list[Control]:
    """Judge a correct conversion with weights and inputs of this seed, in each dtype and variant."""
    from benchmarks.mutation.experiment import Experiment
    from benchmarks.mutation.tiny_models import TINY_MODELS

    with tempfile.TemporaryDirectory() as workdir:
        experiment = Experiment(TINY_MODELS[name], Path(workdir), seed=1000 + seed, device=device)
        return [
            Control(name, seed, dtype, variant, verdict.passed, verdict.worst.used, verdict.diagnosis)
            for dtype, variant, verdict in experiment.judge_correct_conversion()
            if verdict.worst
        ]
