"""No false alarm: right conversions by a subject in an interpreter of its own, judged.

    python -m benchmarks.control --subject-python ENV/bin/python [--subject-path DIR] [--seeds N] [NAME …]

The specimens of the mutation run with nothing planted: every seed, model, dtype and variant that runs here is judged,
and every red verdict is a false alarm or a finding about the subject.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks._figure import Figure, show
from benchmarks.mutation.experiment import Bench
from benchmarks.mutation.tiny_models import SPECIMENS
from ci.subjects.base import ConvertRequest
from ci.subjects.open import open_subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import Subject

Judged = tuple[str, "Verdict"]


def judged(subject: Subject, name: str, seed: int, workdir: Path) -> Iterator[Judged]:
    """What was judged and its verdict, over one specimen's dtypes and variants."""
    bench = Bench(SPECIMENS[name], workdir, seed=seed)
    converted = workdir / "converted"
    subject.convert(ConvertRequest(str(bench.source), str(converted), bench.specimen.model_type))
    judge = bench.judge(subject, converted)
    dtypes: tuple[Literal["float32", "model"], ...] = ("float32", "model")
    offered = [v for v in subject.variants(str(converted)) if not v.needs and not v.default]
    for variant in ({}, *({v.axis: v.name} for v in offered)):
        for dtype in dtypes[: 1 if bench.specimen.dtype == "float32" else 2]:
            verdict = judge.check_forward(dtype=dtype, variant=variant)
            yield f"{name}, seed {seed}, {dtype}, {variant or 'default'}", verdict


def figure(found: list[Judged]) -> Figure:
    """Red verdicts of how many; the share of its limit that the worst tensor used."""
    red = sum(not verdict.passed for _, verdict in found)
    used = max((verdict.worst.used for _, verdict in found if verdict.worst), default=0.0)
    return Figure(
        "false alarms", red, "≤", 0, how=f"{len(found)} clean comparisons, at most {used:.0%} of a limit used"
    )


def main() -> int:
    """Judge, print each red verdict as it comes, and the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SPECIMENS)}; default: all")
    parser.add_argument("--subject-python", type=Path, required=True)
    parser.add_argument("--subject-path", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    found: list[Judged] = []
    with open_subject("fast_llm", python=options.subject_python, path=tuple(options.subject_path)) as subject:
        for seed in range(options.seeds):
            for name in options.names or SPECIMENS:
                with tempfile.TemporaryDirectory() as scratch:
                    for what, verdict in judged(subject, name, seed, Path(scratch)):
                        found.append((what, verdict))
                        if not verdict.passed:
                            print(f"{what}: {verdict.diagnosis}", file=sys.stderr, flush=True)
    return show([figure(found)])


if __name__ == "__main__":
    sys.exit(main())
