"""One whole verdict with both tolerances in a process of its own, which `verdict_cost` times."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from benchmarks._recorder import FORWARDS, recorded
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.judge import Judge
from ci.models import HubModel
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject


def main(forwards: str, hugging_face: str, converted: str) -> None:
    """Judge the conversion `converted` of `hugging_face`; record each forward pass in the file `forwards`."""
    HuggingFace.trace = recorded("hugging_face", HuggingFace.trace)  # type: ignore[method-assign]
    ReferenceSubject.trace = recorded("reference", ReferenceSubject.trace)  # type: ignore[method-assign]
    model = HubModel("model", "org/model", json.loads((Path(hugging_face) / "config.json").read_text())["model_type"])
    with tempfile.TemporaryDirectory() as workdir:
        judge = Judge(
            ComparisonInputs(model, hugging_face, converted, workdir=workdir), ReferenceSubject(), HuggingFace()
        )
        verdicts = judge.check_forward(dtype="float32", variant={}), judge.check_forward(dtype="model", variant={})
    if not all(verdict.passed for verdict in verdicts):
        sys.exit("; ".join(verdict.diagnosis for verdict in verdicts))
    Path(forwards).write_text(json.dumps(FORWARDS))


if __name__ == "__main__":
    main(*sys.argv[1:])
