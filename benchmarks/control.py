"""The negative control with a real subject in an interpreter of its own: correct conversions must pass.

    python -m benchmarks.control --subject-python ENV/bin/python [--subject-path DIR] [--seeds N] [NAME …]

The tiny models of the mutation benchmark, without a bug: each seed, model, dtype and variant that runs here is tested.
Every failed verdict is a false alarm or a finding about the subject.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks._figure import Figure, show
from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.tiny_models import TINY_MODELS
from ci.subjects.base import ConvertRequest
from ci.subjects.open_subject import open_subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import Subject

NamedVerdict = tuple[str, "Verdict"]


def judge_tiny_model(subject: Subject, name: str, seed: int, workdir: Path) -> Iterator[NamedVerdict]:
    """Yield a label and the verdict for each dtype and variant of one tiny model."""
    experiment = Experiment(TINY_MODELS[name], workdir, seed=seed)
    converted = workdir / "converted"
    subject.convert(ConvertRequest(str(experiment.source), str(converted), experiment.tiny_model.model_type))
    judge = experiment.judge(subject, converted)
    dtypes: tuple[Literal["float32", "model"], ...] = ("float32", "model")
    offered = [v for v in subject.variants(str(converted)) if not v.needs and not v.default]
    for variant in ({}, *({v.axis: v.name} for v in offered)):
        for dtype in dtypes[: 1 if experiment.tiny_model.dtype == "float32" else 2]:
            yield (
                f"{name}, seed {seed}, {dtype}, {variant or 'default'}",
                judge.check_forward(dtype=dtype, variant=variant),
            )


def make_figure(verdicts: list[NamedVerdict]) -> Figure:
    """Return the number of failed verdicts and how close the worst tensor came to its tolerance."""
    failed = sum(not verdict.passed for _, verdict in verdicts)
    used = max((verdict.worst.used for _, verdict in verdicts if verdict.worst), default=0.0)
    return Figure(
        "false alarms",
        failed,
        "≤",
        0,
        how=f"{len(verdicts)} correct conversions tested, at most {used:.0%} of a tolerance used",
    )


def main() -> int:
    """Judge all, print each failed verdict at once, then the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TINY_MODELS)}; default: all")
    parser.add_argument("--subject-python", type=Path, required=True)
    parser.add_argument("--subject-path", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    verdicts: list[NamedVerdict] = []
    with open_subject("fast_llm", python=options.subject_python, path=tuple(options.subject_path)) as subject:
        for seed, name in product(range(options.seeds), options.names or TINY_MODELS):
            with tempfile.TemporaryDirectory() as scratch:
                for what, verdict in judge_tiny_model(subject, name, seed, Path(scratch)):
                    verdicts.append((what, verdict))
                    if not verdict.passed:
                        print(f"{what}: {verdict.diagnosis}", file=sys.stderr, flush=True)
    return show([make_figure(verdicts)])


if __name__ == "__main__":
    sys.exit(main())
