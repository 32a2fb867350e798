"""Weights that another variant of the model has loaded, against the real Fast-LLM where there is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.base import ConvertRequest
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.tiny import save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject


def overwrite_weights(checkpoint: Path) -> None:
    """Write zeros over the weights; neither size nor times of the file tell."""
    (file,) = checkpoint.glob("*.safetensors")
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-(before.st_size // 2), os.SEEK_END)
        opened.write(bytes(before.st_size // 2))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("dtype", "before"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]
)
@pytest.mark.parametrize(
    ("name", "variant"), [("mistral", {"attention": "backup"}), ("mixtral", {"attention": "backup"})]
)
def test_another_variant_or_dtype_takes_the_weights_and_computes_as_if_it_had_read_them(
    name: str, variant: dict[str, str], dtype: str, before: str, fast_llm: Subject, tmp_path: Path
) -> None:
    inputs, checkpoint = save_inputs(tmp_path / "inputs", padding=(0, 5)), tmp_path / "converted"
    fast_llm.convert(ConvertRequest(str(save_model(name, tmp_path / "model")), str(checkpoint), name))

    def trace(target: str, dtype: Any = dtype, **rest: Any) -> TraceReader:
        request = trace_request(checkpoint, inputs, tmp_path / target, capture="all", dtype=dtype, **rest)
        fast_llm.trace(request)
        return TraceReader(tmp_path / target)

    fast_llm.release()
    read = trace("read", variant=variant)
    fast_llm.release()
    default = trace("default", before)
    overwrite_weights(checkpoint)
    taken = trace("taken", variant=variant)
    assert taken.result.ran == read.result.ran != default.result.ran
    for tensor in read:
        assert torch.equal(taken.tensor(tensor), read.tensor(tensor)), tensor
    fast_llm.release()
    assert not torch.equal(trace("zeros", variant=variant).tensor("logits"), read.tensor("logits"))
