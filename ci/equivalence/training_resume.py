"""Checks of saved training: a resume goes on as if nothing had happened, in any layout, and damage is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from ci.equivalence.case_result import MAX_MEASURES
from ci.equivalence.checkpoint_tensors import CheckpointTensors, have_same_bits
from ci.equivalence.optimizer_signature import ParameterUpdates, find_optimizer_mistake
from ci.equivalence.relative_error import compute_relative_error
from ci.equivalence.tolerances import FLOAT32_TOLERANCE, MIN_FLOOR
from ci.equivalence.training_compare import TrainingComparison, TrainingRun
from ci.equivalence.verdict import Verdict
from ci.errors import NotOfferedError, SubjectError, UnsupportedError
from ci.evidence import NOT_COVERED, Measure
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.equivalence.training_check import TrainingCheck
    from ci.subjects.training import TrainRequest

NOT_REFUSALS = (SubjectCrashError, SubjectTimeoutError)
MOMENT_WORDS = ("exp_avg", "moment", "first", "second")
"""Parts of the names under which checkpoints keep AdamW's moments."""


def check_resume(check: TrainingCheck) -> Verdict:
    """Compare the second step after a resume with the second step without one; damaged checkpoints must be refused."""
    runner = _Runner(check)
    whole = runner.run("whole", steps=2)
    runner.run("first", steps=1, save=True)
    saved = runner.path("first") / "checkpoint"
    resumed = runner.run("resumed", steps=1, resume=str(saved), resume_steps=1)
    measures = list(_compare_second_step(whole, resumed, check.expected.names))
    wrong = [measure for measure in measures if not measure.passed]
    finding = _explain_resume(check, whole, resumed, wrong) if wrong else ""
    accepted = [] if wrong else list(_list_accepted_damage(runner, saved))
    worst = max(measures, key=lambda measure: measure.used)
    return Verdict(
        passed=not (wrong or accepted),
        failure_class="numeric_mismatch" if wrong or accepted else None,
        diagnosis=finding or (f"resume: {accepted[0]}" if accepted else ""),
        measures=tuple(sorted(measures, key=lambda measure: -measure.used)[:MAX_MEASURES]),
        worst=worst,
        component="kernel" if wrong or accepted else "",
        coverage={"layout": "single", "resume": f"step 2 after a resume; {runner.damaged} damaged checkpoints"},
        ran=resumed.result.ran,
        figures={"resume.used": worst.used, "resume.damaged_accepted": float(len(accepted))},
    )


def check_layout_conversion(check: TrainingCheck, layouts: Sequence[str]) -> Verdict:
    """Load one checkpoint in each layout, save and export it there, and load that in one process.

    Every export must have the same bits, and so must the next step from every checkpoint.
    """
    runner = _Runner(check)
    runner.run("origin", steps=1, save=True, export=True)
    origin = runner.path("origin")
    following = runner.run("following", steps=1, resume=str(origin / "checkpoint"), resume_steps=1)
    measures = list(_compare_bits(origin / "step-1" / "weights", origin / "export", "export from one process"))
    refused: dict[str, str] = {}
    for layout in layouts:
        try:
            measures += _compare_layout(runner, layout)
        except UnsupportedError as refusal:  # a model that this layout cannot cut
            refused[f"layout {layout}"] = f"{NOT_COVERED}{refusal}"
    if len(refused) == len(layouts):
        raise NotOfferedError("; ".join(refused.values()) or "the subject offers no layout to convert to")
    coverage = {"layout": f"single to and from {', '.join(layouts)}", **refused}
    return _build_conversion_verdict(measures, coverage, following.result.ran)


def _compare_layout(runner: _Runner, layout: str) -> list[Measure]:
    """Carry the checkpoint of one process to a layout and back; compare the exports and the next step.

    Raises UnsupportedError where the subject refuses the layout.
    """
    origin, back = runner.path("origin"), f"{layout}-back"
    runner.run(layout, layout=layout, steps=0, resume=str(origin / "checkpoint"), save=True, export=True)
    saved, returned = runner.path(layout), runner.path(back)
    runner.run(back, steps=1, resume=str(saved / "checkpoint"), resume_steps=1, export=True)
    measures = list(_compare_bits(origin / "export", saved / "export", f"export from {layout}"))
    expected = runner.path("following") / "step-1" / "weights"
    measures += _compare_bits(expected, returned / "step-1" / "weights", f"next step after {layout}")
    for finished in (saved, returned):
        shutil.rmtree(finished)
    return measures


def _build_conversion_verdict(measures: list[Measure], coverage: dict[str, str], ran: Mapping[str, str]) -> Verdict:
    wrong = [measure for measure in measures if not measure.passed]
    return Verdict(
        passed=not wrong,
        failure_class="numeric_mismatch" if wrong else None,
        diagnosis=f"change of layout: {wrong[0].tensor} has other bits ({len(wrong)} in all)" if wrong else "",
        measures=tuple(sorted(measures, key=lambda measure: -measure.used)[:MAX_MEASURES]),
        worst=max(measures, key=lambda measure: measure.used),
        component="conversion" if wrong else "",
        coverage=coverage,
        ran=ran,
        figures={"conversion.tensors": float(len(measures))},
    )


class _Runner:
    """Runs a check's request with changes, each into its own directory."""

    def __init__(self, check: TrainingCheck) -> None:
        self.check, self.damaged = check, 0

    def path(self, name: str) -> Path:
        return self.check.workdir / f"resume-{name}"

    def run(self, name: str, *, layout: str = "single", **changes: object) -> TrainingRun:
        """Run the request with changes. Raises what the subject raises."""
        shutil.rmtree(self.path(name), ignore_errors=True)
        request: TrainRequest = replace(self.check.build_request(f"resume-{name}"), layout=layout)
        self.check.reference.lease.acquire(self.check.subject)
        with self.check.reference.costs.clock.measure("forward", f"subject resume {layout}"):
            result = self.check.subject.train(replace(request, **changes))  # type: ignore[arg-type]
        return TrainingRun(result, self.path(name))


def _compare_second_step(whole: TrainingRun, resumed: TrainingRun, names: Sequence[str]) -> Iterator[Measure]:
    """Yield gradients and weights of the second step with and without a resume; the same numbers, so the same bits."""
    limit = FLOAT32_TOLERANCE * MIN_FLOOR["float32"]
    for kind in ("gradient", "weight"):
        one, other = (
            (run.open_gradients(step) if kind == "gradient" else run.open_weights(step))
            for run, step in ((whole, 2), (resumed, 1))
        )
        for name in names:
            error = compute_relative_error(other.read(name), one.read(name))
            shape = tuple(one.read(name).shape)
            yield Measure(
                f"{kind} of {name} after a resume", "float32", shape, error, limit, passed=error <= limit, case="resume"
            )


def _compare_bits(expected: Path, actual: Path, what: str) -> Iterator[Measure]:
    wanted, found = CheckpointTensors(expected), CheckpointTensors(actual)
    for name in sorted({*wanted.files, *found.files}):
        if name not in wanted or name not in found:
            raise SubjectError(f"{what}: {name} is {'missing' if name in wanted else 'unexpected'}")
        one, other = wanted.read(name), found.read(name)
        same = have_same_bits(one, other)
        error = 0.0 if same else max(compute_relative_error(other, one), MIN_FLOOR["float64"])
        yield Measure(f"{what}: {name}", "float32", tuple(one.shape), error, 0.0, passed=same, case="conversion")


def _explain_resume(check: TrainingCheck, whole: TrainingRun, resumed: TrainingRun, wrong: Sequence[Measure]) -> str:
    """Return why the second step differs: other weights, other documents, or another optimizer state."""
    first = f"resume: {wrong[0].tensor} differs (relative {wrong[0].error:.2g})"
    if wrong[0].tensor.startswith("gradient"):
        return f"{first}: it did not start from the saved weights, or took other documents"
    comparison = TrainingComparison(check.expected, whole)
    norms = [comparison.compute_own_norm(step)[0] for step in (1, 2)]
    names = [m.tensor.removeprefix("weight of ").removesuffix(" after a resume") for m in wrong]
    parameters = []
    for name in names:
        history, updates = comparison.read_history(name, norms), comparison.read_updates(name)
        after = resumed.open_weights(1).read(name).double() - whole.open_weights(1).read(name).double()
        parameters.append(ParameterUpdates(name, history, [updates[0], after]))
    reason = find_optimizer_mistake(parameters, check.expected.request.optimizer)
    return f"{first}, and {len(wrong) - 1} more: {reason or 'the optimizer went on from another state'}"


def _list_accepted_damage(runner: _Runner, saved: Path) -> Iterator[str]:
    """Yield each damaged copy of a training checkpoint that the subject loads without a word."""
    for what, damaged in _damage(saved, runner.path("damaged")):
        runner.damaged += 1
        try:
            runner.run("accepted", steps=1, resume=str(damaged), resume_steps=1)
        except NOT_REFUSALS:
            raise
        except UnsupportedError:
            raise
        except SubjectError:
            continue
        yield f"a training checkpoint {what} is loaded without a word"


def _damage(saved: Path, target: Path) -> Iterator[tuple[str, Path]]:
    """Yield copies of a checkpoint, each without one of its files of tensors, or without one moment."""
    files = sorted(path.relative_to(saved) for path in saved.rglob("*.safetensors"))
    for file in files:
        _copy(saved, target)
        (target / file).unlink()
        yield f"without {file.name}", target
    for file in files[:1]:
        tensors = load_file(saved / file)
        moment = next((n for n in sorted(tensors) if any(word in n.lower() for word in MOMENT_WORDS)), None)
        if moment is not None:
            _copy(saved, target)
            save_file({name: t for name, t in tensors.items() if name != moment}, target / file)
            yield f"without the moment {moment}", target


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
