"""Refusals are one line."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.hugging_face import HuggingFace


def test_refusals_are_one_line(make: Any, tmp_path: Path, hugging_face: HuggingFace) -> None:
    request = make("llama", "trace")
    with pytest.raises(UnsupportedError, match="experts=eager"):
        hugging_face.trace(replace(request, variant={"experts": "eager"}))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(SubjectError, match="no_such_model") as odd:
        hugging_face.trace(replace(request, checkpoint=str(tmp_path / "odd")))
    assert "\n" not in str(odd.value)
    with pytest.raises(SubjectError, match="forward fails"):
        hugging_face.trace(make("mixtral", "grouped", dtype="float64", variant={"experts": "grouped_mm"}))
