"""Captures on blocks of Fast-LLM's form, called as its stages call them; the real ones are in test_subject.py."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from ci.subjects.fast_llm.hooks import ForwardHooks, read_implementations, rotate_to_row_start
from ci.subjects.fast_llm.mixers import list_operations
from ci.subjects.forward import Inputs, TraceRecorder
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import BLOCK_OPERATIONS

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = Inputs(torch.tensor([[1, 2, 3]]))
HIDDEN = torch.arange(12.0).reshape(3, 4)


class Block:
    """Hands out hidden states as Fast-LLM's blocks do, and then changes one in place."""

    def __init__(self, index: int, *, experts: bool) -> None:
        self.module_name = f"decoder.{index}"
        self.mixer = SimpleNamespace(_implementation="sdpa_dense")
        self.router = nn.Identity()
        self.mlp = (
            SimpleNamespace(router=self.router, _mlp_forward=self._forward_looped) if experts else SimpleNamespace()
        )

    def _forward_looped(self) -> None: ...

    def forward(self, input_: Tensor, kwargs: dict[str, Any], _losses: None = None) -> Tensor:
        def debug(name: str, tensor: Tensor) -> None:
            kwargs["hidden_states"][f"{self.module_name}.{name}"] = (None, tensor)

        normed = input_ + 1
        for name in ("norm_1", "mixer.attn_input", "mixer.query", "mixer.key", "mixer.value", "mixer.context"):
            debug(name, normed)
        normed.zero_()
        for name in ("mixer", "mixer_output", "mixer_residual", "norm_2"):
            debug(name, input_ + 2)
        if hasattr(self.mlp, "router"):
            self.router(input_)
            debug("mlp.router_scores", torch.tensor([[0.4, 0.6]]).repeat(3, 1))
            debug("mlp.router_top_experts", torch.tensor([[7, 5]]).repeat(3, 1))
        debug("mlp", input_)
        return input_ * 2


class Model:
    """What ForwardHooks needs of the wrapper."""

    def __init__(self, *, experts: bool) -> None:
        norm = SimpleNamespace(module_name="head.final_norm")
        decoder = [Block(0, experts=experts), Block(1, experts=experts)]
        others = SimpleNamespace(blocks=[], heads=[])
        self.fast_llm_base_model = SimpleNamespace(
            decoder=decoder, head=SimpleNamespace(final_norm=norm), multi_token_prediction=others
        )

    def run(self) -> tuple[Tensor, dict[str, Any]]:
        """The forward of its stages, with the dictionary that everybody shares."""
        kwargs: dict[str, Any] = {"hidden_states": {}}
        hidden = HIDDEN
        for block in self.fast_llm_base_model.decoder:
            hidden = block.forward(hidden, kwargs, None)
        return hidden, kwargs["hidden_states"]


def traced(path: Path, model: Model, **rest: Any) -> tuple[TraceReader, ForwardHooks, dict[str, Any]]:
    recorder = TraceRecorder(TraceWriter(path), INPUTS, torch.float32)
    hooks = ForwardHooks(model, recorder, frozenset(BLOCK_OPERATIONS), **rest)
    with hooks.installed():
        _, shared = model.run()
    (path / "trace.json").touch()
    return TraceReader(path), hooks, shared


@pytest.mark.parametrize("experts", [False, True])
def test_every_operation_is_recorded_as_it_was_and_nothing_is_kept(experts: bool, tmp_path: Path) -> None:
    model = Model(experts=experts)
    trace, hooks, shared = traced(tmp_path / "trace", model)
    assert hooks.recorder.written == [
        "embeddings",
        *(f"decoder.0.{name}" for name in list_operations(model.fast_llm_base_model.decoder[0])),
        "decoder.0",
        *(f"decoder.1.{name}" for name in list_operations(model.fast_llm_base_model.decoder[1])),
        "decoder.1",
    ]
    assert not set(hooks.list_expected()) - set(hooks.recorder.written)
    assert shared == {}
    assert torch.equal(trace.tensor("decoder.0.norm_1")[0], HIDDEN + 1)
    assert torch.equal(trace.tensor("decoder.1")[0], HIDDEN * 4)
    assert model.run()[1], "the blocks are as before"
    if experts:
        assert trace.tensor("decoder.0.mlp.router_top_experts")[0, 0].tolist() == [5, 7]
        assert trace.tensor("decoder.0.mlp.router_scores")[0, 0].tolist() == pytest.approx([0.6, 0.4])
        assert read_implementations(hooks.blocks) == {"attention": "sdpa_dense", "moe": "looped"}


def rotated(tensor: Tensor, angles: Tensor) -> Tensor:
    """(tokens, heads, head_dim) by (tokens, head_dim / 2) angles, halves as real and imaginary parts."""
    turned = torch.complex(*tensor.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_rotation_by_the_place_in_the_pack_becomes_rotation_by_the_place_in_the_row(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    queries = torch.randn(12, 3, 6, generator=generator)
    speeds = torch.tensor([1.0, 0.3, 0.01])
    packed = torch.arange(12.0)[:, None] * speeds
    in_row = (mask.cumsum(-1) - 1).clamp(min=0).reshape(12, 1) * speeds
    frequencies = factor * torch.cat([packed.cos(), packed.sin()], dim=-1)[:, None]
    rotated_back = rotate_to_row_start(factor * rotated(queries, packed), frequencies, Inputs(mask.clone(), mask))
    kept = mask.reshape(12).bool()
    torch.testing.assert_close(rotated_back[kept], factor * rotated(queries, in_row)[kept], rtol=1e-5, atol=1e-5)
    assert torch.equal(rotated_back[:4], factor * rotated(queries, packed)[:4]), "the first row is left as it is"
    skewed = rotate_to_row_start(factor * rotated(queries, packed * 1.01), frequencies, Inputs(mask, mask))
    assert not torch.allclose(skewed[kept], factor * rotated(queries, in_row)[kept], rtol=1e-2), "a bug stays one"


def test_what_is_fed_is_recorded_before_it_is_replaced(tmp_path: Path) -> None:
    trace, *_ = traced(tmp_path / "trace", Model(experts=False), feed=Fixed(100.0))
    assert trace.tensor("decoder.0.mixer.value").eq(101).all()
    assert trace.tensor("embeddings").eq(HIDDEN).all(), "recorded before it is replaced"
    assert trace.tensor("decoder.1").eq(200).all()


class Fixed:
    """A feed of one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def read_block_input(self, _block: int) -> Tensor:
        return torch.full((1, 3, 4), self.value)


def test_patterns_are_for_what_is_asked() -> None:
    recorder: Any = None
    assert ForwardHooks(Model(experts=False), recorder).hidden_state_patterns() == [r"head\.final_norm$"]
    patterns = ForwardHooks(Model(experts=False), recorder, frozenset({"mixer"})).hidden_state_patterns()
    assert patterns == [r"head\.final_norm$", r"decoder\.0\.(?:mixer_output)$", r"decoder\.1\.(?:mixer_output)$"]


class Predicting(Block):
    """A block before another prediction head: it returns its input, then its output."""

    def forward(self, input_: Tensor, kwargs: dict[str, Any], _losses: None = None) -> Tensor:
        return torch.stack((input_, super().forward(input_, kwargs)))


class SeveralHeads(Model):
    """Three heads: the second one's block passes the shared input on, the last one's does not."""

    def __init__(self) -> None:
        super().__init__(experts=False)
        base = self.fast_llm_base_model
        base.decoder[1] = Predicting(1, experts=False)
        base.multi_token_prediction.blocks = [Predicting(2, experts=False), Block(3, experts=False)]
        base.multi_token_prediction.heads = [
            SimpleNamespace(final_norm=SimpleNamespace(module_name=f"heads.{head}.final_norm")) for head in range(2)
        ]

    def run(self) -> tuple[Tensor, dict[str, Any]]:
        kwargs: dict[str, Any] = {"hidden_states": {}}
        shared = self.fast_llm_base_model.decoder[0].forward(HIDDEN, kwargs)
        for block in (self.fast_llm_base_model.decoder[1], *self.fast_llm_base_model.multi_token_prediction.blocks):
            output = block.forward(shared, kwargs)
            shared = output[0] if output.ndim > HIDDEN.ndim else output
        return output, kwargs["hidden_states"]


def test_several_heads_read_the_same_input_and_have_names_of_their_own(tmp_path: Path) -> None:
    model = SeveralHeads()
    recorder = TraceRecorder(TraceWriter(tmp_path / "trace"), INPUTS, torch.float32)
    hooks = ForwardHooks(model, recorder, frozenset(BLOCK_OPERATIONS))
    assert hooks.final_norms == ["head.final_norm", "heads.0.final_norm", "heads.1.final_norm"]
    with hooks.installed():
        model.run()
    norms = {name: torch.full((1, 3, 6), float(n)) for n, name in enumerate(hooks.final_norms)}
    hooks.record_heads(norms, torch.arange(3.0).repeat(1, 3, 4, 1).transpose(2, 3))
    recorder.flush()
    (tmp_path / "trace" / "trace.json").touch()
    trace = TraceReader(tmp_path / "trace")
    assert set(hooks.list_expected()) <= set(recorder.written)
    assert torch.equal(trace.tensor("decoder.1")[0], HIDDEN * 4)
    assert torch.equal(trace.tensor("prediction_head.1.block")[0], HIDDEN * 4)
    assert torch.equal(trace.tensor("prediction_head.2.block")[0], HIDDEN * 4)
    assert trace.tensor("prediction_head.2.final_norm").eq(2).all()
    assert [float(trace.tensor(f"{head}logits").mean()) for head in ("", "prediction_head.1.")] == [0.0, 1.0]


def test_a_mixer_among_several_is_asked_below_its_name() -> None:
    model = Model(experts=False)
    block = model.fast_llm_base_model.decoder[0]
    block.mixer = SimpleNamespace(mixers={"gdn": 0}, _config=SimpleNamespace(main_mixer_name="gdn"))
    hooks = ForwardHooks(model, TraceRecorder(None, INPUTS, torch.float32), frozenset(BLOCK_OPERATIONS))  # type: ignore[arg-type]
    pattern = re.compile(hooks.hidden_state_patterns()[1])
    assert pattern.match("decoder.0.mixer.mixers.gdn.query")
    assert pattern.match("decoder.0.mixer_output")
    assert not pattern.match("decoder.0.mixer.mixers.attention.query")
    assert read_implementations(hooks.blocks)["mixer"] == "gdn"
