from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ci.errors import RequestError, SubjectError
from ci.subjects.base import TraceRequest
from ci.subjects.forward import DTYPES, Inputs, TeacherForcing, TraceRecorder, exact_arithmetic, read_inputs
from ci.subjects.trace_files import TraceReader, TraceWriter
from tests.ci.subjects.tiny import save_inputs

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[1, 2, 3], [0, 4, 5]])
MASK = torch.tensor([[1, 1, 1], [0, 1, 1]])


def test_inputs_come_back_with_their_padding(tmp_path: Path) -> None:
    inputs = read_inputs(save_inputs(tmp_path / "inputs.safetensors", padding=(0, 5)))
    assert inputs.count_padding(1) == 5
    assert inputs.select_row(1).ids.shape == (1, 19)
    assert inputs.select_row(1).mask is None
    positions = inputs.position_ids()
    assert positions is not None
    assert positions[:, 5:8].tolist() == [[5, 6, 7], [0, 1, 2]]


def test_a_mask_of_ones_is_no_mask(tmp_path: Path) -> None:
    assert read_inputs(save_inputs(tmp_path / "inputs.safetensors", padding=(0, 0))).mask is None


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"input_ids": IDS.int()},
        {"input_ids": IDS[0]},
        {"input_ids": IDS[:, :0]},
        {"input_ids": -IDS},
        {"input_ids": IDS, "attention_mask": MASK.bool()},
        {"input_ids": IDS, "attention_mask": MASK[:1]},
        {"input_ids": IDS, "attention_mask": MASK * 2},
        {"input_ids": IDS, "attention_mask": MASK.flip(-1)},
        {"input_ids": IDS, "attention_mask": MASK * 0},
        {"input_ids": IDS, "position_ids": IDS},
    ],
)
def test_other_inputs_are_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "inputs.safetensors")
    with pytest.raises(RequestError, match=r"inputs\.safetensors"):
        read_inputs(tmp_path / "inputs.safetensors")


def test_absent_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_inputs(tmp_path / "absent.safetensors")


def test_the_recorder_copies_casts_unflattens_and_blanks_padding(tmp_path: Path) -> None:
    recorder = TraceRecorder(TraceWriter(tmp_path / "trace"), Inputs(IDS, MASK), DTYPES["bfloat16"])
    block, experts = torch.ones(2, 3, 4), torch.ones(6, 2, dtype=torch.int32)
    recorder.record("decoder.0.norm_1", block)
    recorder.record("decoder.0.mlp.router_top_experts", experts)
    block.zero_()
    recorder.flush()
    (tmp_path / "trace" / "trace.json").touch()
    trace = TraceReader(tmp_path / "trace")
    written = trace.tensor("decoder.0.norm_1")
    assert written.dtype == torch.bfloat16
    assert written[..., 0].tolist() == MASK.tolist()
    assert trace.tensor("decoder.0.mlp.router_top_experts").shape == (2, 3, 2)
    assert trace.tensor("decoder.0.mlp.router_top_experts").dtype == torch.int64


def test_a_block_that_computed_in_another_dtype_is_refused(tmp_path: Path) -> None:
    recorder = TraceRecorder(TraceWriter(tmp_path / "trace"), Inputs(IDS), torch.bfloat16)
    recorder.record("decoder.0.mlp.router_scores", torch.ones(2, 3, 2))  # routers compute in float32 everywhere
    with pytest.raises(SubjectError, match=r"decoder\.0 was computed in float32, not in bfloat16"):
        recorder.record("decoder.0", torch.ones(2, 3, 4))


def test_arithmetic_is_exact_inside_and_as_before_outside() -> None:
    matmul = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not matmul.allow_bf16_reduced_precision_reduction
        assert torch.get_float32_matmul_precision() == "medium"
        assert matmul.allow_bf16_reduced_precision_reduction
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_id_beyond_the_vocabulary_is_refused() -> None:
    inputs = Inputs(torch.tensor([[1, 7]]))
    inputs.check_vocabulary(8)
    with pytest.raises(RequestError, match="contain 7, but the model's vocabulary ends at 6"):
        inputs.check_vocabulary(7)


def test_teacher_forcing_gives_the_input_of_each_block(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "trace")
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    writer.write_scope("embeddings", {"embeddings": hidden})
    writer.write_scope("decoder.0", {"decoder.0": hidden + 1})
    writer.write_scope("head", {"final_norm": hidden, "logits": hidden})
    writer.finish(ran={}, dtype="float32", device="cpu", seconds=0.0)
    request = TraceRequest("checkpoint", "inputs", "output", dtype="bfloat16", feed=str(tmp_path / "trace"))
    forcing = TeacherForcing.of_request(request)
    assert forcing is not None
    assert forcing.read_block_input(0).equal(hidden.bfloat16())
    assert forcing.read_block_input(1).equal((hidden + 1).bfloat16())
    assert forcing.select_row(1, 1).read_block_input(0).equal(hidden[1:, 1:].bfloat16())
    assert TeacherForcing.of_request(replace(request, feed=None)) is None
