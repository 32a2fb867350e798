"""The mutation score: what share of planted bugs the gates catch, locate and attribute, and that they never cry wolf.

    python -m benchmarks mutation

Every bug of the catalogue is planted alone in every specimen that can have it. One that does not move Hugging Face's
own answer is equivalent and does not count. Beside our gates stand the published rules of other projects, on the same
bugs. The negative control judges right conversions: seeds x specimens x dtypes x variants.
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

from benchmarks.mutation.experiment import Outcome
from ci.errors import RequestError

GATES = ("hub-tests: Gate A, float32", "hub-tests: Gate B, the model's dtype", "hub-tests: both gates")
CHUNKS = 3
"""A specimen's bugs are divided over this many tasks, each of which measures the truth for itself."""


@dataclass(frozen=True)
class MutationOptions:
    """Which specimens (all), how many processes, how many seeds of the negative control, and where to work."""

    specimens: tuple[str, ...] = ()
    jobs: int = 1
    seeds: int = 25
    device: str = "cpu"


@dataclass(frozen=True)
class Control:
    """A right conversion that was judged. `used` is the share of its tolerance that the worst tensor used."""

    specimen: str
    seed: int
    dtype: str
    variant: str
    passed: bool
    used: float
    said: str = ""


@dataclass(frozen=True)
class MutationScore:
    """Everything that was planted and judged. `rule_alarms`: published rules that fail a right conversion."""

    outcomes: tuple[Outcome, ...]
    controls: tuple[Control, ...] = ()
    rule_alarms: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def real(self) -> tuple[Outcome, ...]:
        """The planted bugs that change Hugging Face's answer."""
        return tuple(outcome for outcome in self.outcomes if not outcome.equivalent)

    @property
    def caught(self) -> int:
        """How many real ones either gate caught."""
        return sum(outcome.caught for outcome in self.real)

    @property
    def located(self) -> int:
        """How many were named by the right layer and module."""
        return sum(outcome.located for outcome in self.real)

    @property
    def half_right(self) -> int:
        """How many of the caught ones were laid to the right half."""
        return sum(outcome.caught and outcome.half_named == outcome.half for outcome in self.real)

    @property
    def false_alarms(self) -> tuple[Control, ...]:
        """The right conversions that were called wrong."""
        return tuple(control for control in self.controls if not control.passed)


def run_mutation_score(options: MutationOptions, *, progress: Callable[[str], None] = lambda _: None) -> MutationScore:
    """Plant, judge, count. `progress` hears one line a finished task. Raises RequestError for an unknown specimen."""
    names = _specimens(options.specimens)
    started = time.monotonic()
    tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (_plant, (name, chunk, options.device)) for name in names for chunk in range(CHUNKS)
    ]
    tasks += [(_control, (name, seed, options.device)) for seed in range(options.seeds) for name in names]
    outcomes: list[Outcome] = []
    controls: list[Control] = []
    alarms: dict[str, int] = {}
    for (work, arguments), found in zip(tasks, _run(tasks, options.jobs), strict=True):
        if work is _plant:
            outcomes += found[0]
            alarms = {rule: alarms.get(rule, 0) + count for rule, count in found[1].items()}
            progress(f"{arguments[0]}: {len(found[0])} bugs planted, part {arguments[1] + 1} of {CHUNKS}")
        else:
            controls += found
            progress(f"{arguments[0]}, seed {arguments[1]}: {len(found)} right conversions judged")
    return MutationScore(tuple(outcomes), tuple(controls), alarms, time.monotonic() - started)


def markdown(score: MutationScore) -> str:
    """The table for the README: rules down, kinds of model across, caught of planted."""
    groups = {specimen: [o for o in score.real if o.specimen == specimen] for specimen in _order(score.real)}
    head = ["rule", *(f"{name} ({len(found)})" for name, found in groups.items()), f"all ({len(score.real)})"]
    rows = [[name, *_counts(groups, score.real, sees)] for name, sees in _rules(score)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([*lines, "", *_sentences(score)])


def _sentences(score: MutationScore) -> list[str]:
    real, caught = len(score.real), score.caught
    alarms = [f"{rule} fails {count}" for rule, count in score.rule_alarms.items() if count]
    used = max((control.used for control in score.controls), default=0.0)
    located, half = _share(score.located, real), _share(score.half_right, caught)
    lines = [
        f"{real} planted bugs count; {len(score.outcomes) - real} more do not change Hugging Face's answer.",
        f"Caught {caught}. Located in the right layer and module: {located}. Laid to the right half: {half}.",
        f"{len(score.controls)} right conversions judged: {len(score.false_alarms)} false alarms.",
        f"The tensor of theirs that came closest to its limit used {used:.0%} of it.",
    ]
    return lines + [f"Of {CHUNKS * len(_order(score.outcomes))} right conversions, {'; '.join(alarms)}."] * bool(alarms)


def _rules(score: MutationScore) -> Iterator[tuple[str, Callable[[Outcome], bool]]]:
    published = list(dict.fromkeys(rule for outcome in score.real for rule in outcome.rules))
    for rule in published:
        yield rule, lambda outcome, rule=rule: outcome.rules.get(rule, False)  # type: ignore[misc]
    yield GATES[0], lambda outcome: outcome.gate_a
    yield GATES[1], lambda outcome: outcome.gate_b
    yield f"**{GATES[2]}**", lambda outcome: outcome.caught


def _counts(groups: Mapping[str, list[Outcome]], real: Sequence[Outcome], sees: Callable[[Outcome], bool]) -> list[int]:
    return [sum(map(sees, found)) for found in (*groups.values(), real)]


def _order(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.specimen for outcome in outcomes))


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none"


def _specimens(wanted: Sequence[str]) -> tuple[str, ...]:
    from benchmarks.mutation.tiny_models import SPECIMENS

    unknown = [name for name in wanted if name not in SPECIMENS]
    if unknown:
        raise RequestError(f"no specimen '{unknown[0]}'; choose from {', '.join(SPECIMENS)}")
    return tuple(wanted) or tuple(SPECIMENS)


def _run(tasks: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], jobs: int) -> Iterator[Any]:
    """The results in the order of the tasks; processes are spawned, because torch does not survive a fork."""
    if jobs < 2:
        yield from (work(*arguments) for work, arguments in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(work, *arguments) for work, arguments in tasks]
        yield from (future.result() for future in futures)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _plant(name: str, chunk: int, device: str) -> tuple[list[Outcome], dict[str, int]]:
    """Every CHUNKS-th bug that fits a specimen; and which published rules fail the right conversion."""
    from benchmarks.mutation.catalogue import catalogue
    from benchmarks.mutation.experiment import Bench
    from benchmarks.mutation.tiny_models import SPECIMENS

    with tempfile.TemporaryDirectory() as workdir:
        bench = Bench(SPECIMENS[name], Path(workdir), seed=chunk, device=device)
        fitting = [mutation for mutation in catalogue() if mutation.fits(bench.specimen)]
        return [bench.outcome(mutation) for mutation in fitting[chunk::CHUNKS]], bench.rule_alarms()


def _control(name: str, seed: int, device: str) -> list[Control]:
    """The right conversion of a specimen with other weights and inputs, in every dtype and variant."""
    from benchmarks.mutation.experiment import Bench
    from benchmarks.mutation.tiny_models import SPECIMENS

    with tempfile.TemporaryDirectory() as workdir:
        bench = Bench(SPECIMENS[name], Path(workdir), seed=1000 + seed, device=device)
        return [
            Control(name, seed, dtype, variant, verdict.passed, verdict.worst.used, verdict.diagnosis)
            for dtype, variant, verdict in bench.clean_verdicts()
            if verdict.worst
        ]
