"""The recorder lists the forward passes that the bare script repeats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import _recorder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, :3] = 0
    save_file({"input_ids": torch.zeros(2, 8, dtype=torch.long), "attention_mask": mask}, tmp_path / "inputs")
    return tmp_path / "inputs"


def test_rows_count_without_their_padding(inputs: Path) -> None:
    assert _recorder.shapes(inputs, by_row=False) == [(2, 8)]
    assert _recorder.shapes(inputs, by_row=True) == [(1, 8), (1, 5)]


def test_a_forward_that_fails_is_not_recorded(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recorder, "FORWARDS", [])
    request = SimpleNamespace(checkpoint="model", dtype="float32", inputs=str(inputs))

    def trace(self: object, request: Any) -> Any:
        if self is None:
            raise RuntimeError("out of memory")
        return SimpleNamespace(ran={"attention": "eager"})

    recording = _recorder.recorded("reference", trace)
    recording(object(), request)
    with pytest.raises(RuntimeError):
        recording(None, request)
    assert [(f["who"], f["shapes"]) for f in _recorder.FORWARDS] == [("reference", [(2, 8)])]
