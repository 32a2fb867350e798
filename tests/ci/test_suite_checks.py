"""What the suite asserts and says by itself, beside the judge's verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.equivalence.verdict import Verdict
from ci.evidence import Measure
from ci.hub.fetch import Checkpoint
from ci.suite_checks import published_dtype, verdict_text

if TYPE_CHECKING:
    from pathlib import Path

WRONG = Measure("decoder.0.mlp", "float32", (1, 4), 1.6e-2, 4e-6, floor=4e-7, worst_index=(0, 3), passed=False)


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (
            WRONG,
            "decoder.0.mlp (float32): 4,000 x the limit: error 1.60e-02, limit 4.00e-06, floor 4.00e-07; at [0, 3]",
        ),
        (
            replace(WRONG, token_error=1.0, token_limit=1e-5),
            "decoder.0.mlp (float32): 100,000 x the limit: error of its worst token 1.00e+00, limit 1.00e-05",
        ),
    ],
)
def test_a_red_verdict_shows_the_figure_of_the_report(measure: Measure, says: str) -> None:
    text = verdict_text((Verdict(passed=True), Verdict(passed=False, diagnosis="layer 0 is wrong", worst=measure)))
    assert text.splitlines()[0] == "layer 0 is wrong"
    assert text.splitlines()[1].startswith(says)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float16"}, "float16"), ({}, "float32")],
)
def test_the_published_dtype_is_the_configs(tmp_path: Path, config: dict[str, str], dtype: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint("o/m", "f" * 40, 2, str(tmp_path), "hit", 1, 0, 0, 0.0, "a" * 64, 2)
    assert published_dtype(checkpoint) == dtype
