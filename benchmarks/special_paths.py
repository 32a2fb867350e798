"""Every bug planted in a special path of the thirteen formats, by the whole verdict: is it caught, and located?

    python -m benchmarks.special_paths [--only WORD] [--write]

Each bug is planted in the reference as the subject; the reference without it is the cross-check, Hugging Face's side
the yardstick: transformers, or a model of its operations where a format has code of its own. A bug is located where the
diagnosis names the operation that it is in. The controls are the same models without a bug, published in bfloat16 and
compared in float32 and in bfloat16. `--write` puts the table into docs/special-paths.md. Some minutes.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.judge import Judge
from ci.models import HubModel, TestParams
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import operation_of
from tests.ci.subjects.reference.cases import format_of, model_config_of
from tests.ci.subjects.reference.conftest import ModelFactory
from tests.ci.subjects.reference.special_paths import SpecialPath, list_paths
from tests.standin.own_models import OWN_MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import TraceRequest, TraceResult
    from ci.subjects.hugging_face import HuggingFace
    from tests.ci.subjects.reference.planting import PlantedBug

PAGE = Path(__file__).parents[1] / "docs" / "special-paths.md"
BEGIN, END = "<!-- begin: python -m benchmarks.special_paths -->", "<!-- end -->"
LENGTH = 70
"""Tokens of a sequence: beyond every window, original RoPE length and chunk."""
CONTROL_DTYPE = "bfloat16"
"""The dtype in which the models without a bug are published, as real ones are; those with a bug have float32."""


class PlantedSubject(ReferenceSubject):
    """The reference with a bug in its forward pass."""

    def __init__(self, bug: PlantedBug) -> None:
        super().__init__()
        self.bug = bug

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run a forward pass with the bug."""
        with pytest.MonkeyPatch.context() as patch:
            self.bug.plant(patch)
            return super().trace(request)


@dataclass
class Counts:
    """What was found of one path's bugs, and which ones were not caught or not located."""

    path: SpecialPath
    caught: int = 0
    located: int = 0
    missed: list[str] = field(default_factory=list)

    def add(self, bug: PlantedBug, verdict: Verdict) -> None:
        """Count one bug's verdict."""
        found = operation_of(verdict.tensor) or verdict.tensor
        located = not verdict.passed and operation_of(verdict.tensor) == bug.operation
        self.caught += not verdict.passed
        self.located += located
        if not located:
            self.missed.append(f"{bug}: {'passed' if verdict.passed else f'{found}, not {bug.operation}'}")

    def show(self) -> str:
        """Return the row of the Markdown table."""
        planted = len(self.path.bugs)
        return f"| {self.path.name} | {self.path.formats} | {planted} | {self.caught} | {self.located} |"


class JudgeFactory:
    """Makes a judge for each case, published in `dtype`; Hugging Face's side of a case is computed once."""

    def __init__(self, root: Path, dtype: str = "float32") -> None:
        root.mkdir(exist_ok=True)
        self.factory = ModelFactory(root, dtype=dtype)
        self._references: dict[str, Any] = {}

    def open(self, case: str, subject: ReferenceSubject) -> Judge:
        """Return a judge of one case, with the unchanged reference as the cross-check."""
        kind, factory = format_of(case), self.factory
        params = TestParams(batch_size=2, sequence_length=LENGTH, compare_factor=1.0)
        model = HubModel(case, f"stand-in/{case}", kind, model_config_of(kind), test_params=params)
        inputs = ComparisonInputs(
            model, str(factory.source(case)), str(factory.converted(case)), workdir=str(factory.root / f"judge-{case}")
        )
        side: HuggingFace = factory.own_code if case in OWN_MODELS else factory.hugging_face
        shared = self._references.get(case)
        judge = Judge(inputs, subject, side, cross_check=ReferenceSubject(), shared_reference=shared)
        self._references[case] = judge.reference
        return judge


def judge_paths(judges: JudgeFactory, paths: Sequence[SpecialPath]) -> list[Counts]:
    """Judge every bug of every path; say on stderr what was not located."""
    counted = []
    for path in paths:
        counts = Counts(path)
        for bug in path.bugs:
            counts.add(bug, judges.open(bug.case, PlantedSubject(bug)).check_forward(dtype="float32", variant={}))
        print("\n".join([counts.show(), *counts.missed]), file=sys.stderr, flush=True)
        counted.append(counts)
    return counted


def judge_controls(judges: JudgeFactory, cases: Sequence[str]) -> list[str]:
    """Judge every model without a bug in both dtypes; return the red ones."""
    dtypes: tuple[Literal["float32", "model"], ...] = ("float32", "model")
    verdicts = {
        f"{case}, {dtype}": judges.open(case, ReferenceSubject()).check_forward(dtype=dtype, variant={})
        for case in cases
        for dtype in dtypes
    }
    return [f"{name}: {verdict.diagnosis}" for name, verdict in verdicts.items() if not verdict.passed]


def show_table(counted: Sequence[Counts], cases: int, red: Sequence[str], seconds: float) -> str:
    """Return the table with its sums, and what it was made with."""
    planted, caught, located = sum_counts(counted)
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    made = f"Made on {time.strftime('%Y-%m-%d', time.gmtime())} at {commit.stdout.strip()}, torch {version('torch')},"
    made += f" transformers {version('transformers')}, Python {platform.python_version()}, {seconds / 60:.0f} minutes."
    lines = ["| special path | formats | planted | caught | located |", "|---|---|---:|---:|---:|"]
    lines += [*(counts.show() for counts in counted), f"| **all** | | {planted} | {caught} | {located} |", ""]
    lines += [
        f"Controls: {cases} models without a bug, published in {CONTROL_DTYPE}, in float32 and in it: {len(red)} red.",
        "",
    ]
    missed = [f"- not located: {line}" for counts in counted for line in counts.missed]
    return "\n".join([*lines, *missed, *([""] if missed else []), made])


def sum_counts(counted: Sequence[Counts]) -> tuple[int, int, int]:
    """Return how many bugs were planted, caught and located in all paths."""
    return (
        sum(len(counts.path.bugs) for counts in counted),
        sum(counts.caught for counts in counted),
        sum(counts.located for counts in counted),
    )


def write_page(table: str, page: Path = PAGE) -> None:
    """Put the table between the marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 where a bug is missed, under 95 % are located, or a control is red."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.special_paths", description=__doc__)
    parser.add_argument("--only", default="", help="paths whose name has this word; default: all")
    parser.add_argument("--write", action="store_true", help="put the table into docs/special-paths.md")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)  # small matrices are slower on many
    paths, start = [path for path in list_paths() if asked.only in path.name], time.monotonic()
    cases = sorted({bug.case for path in paths for bug in path.bugs})
    with tempfile.TemporaryDirectory(prefix="hub-tests-paths.") as scratch:
        counted = judge_paths(JudgeFactory(Path(scratch) / "planted"), paths)
        red = judge_controls(JudgeFactory(Path(scratch) / "controls", CONTROL_DTYPE), cases)
    table = show_table(counted, len(cases), red, time.monotonic() - start)
    print("\n".join([table, *red]))
    if asked.write:
        write_page(table)
    planted, caught, located = sum_counts(counted)
    return 0 if caught == planted and located >= 0.95 * planted and not red else 1


if __name__ == "__main__":
    sys.exit(main())
