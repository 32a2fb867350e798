"""Captures inside Fast-LLM's forward, one decoder block at a time.

Fast-LLM's stages call a block's `forward` directly, so that module hooks never see it; each block's `forward` is
wrapped on the instance instead. Inside, Fast-LLM hands every hidden state that matches `output_hidden_states` to a
dictionary; for the length of a block it is given one that records at once and keeps nothing.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.errors import UnsupportedError
from ci.subjects.forward import Feed, Inputs, Recorder, by_score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = {
    "norm_1": "norm_1",
    "mixer.query": "mixer.query",
    "mixer.key": "mixer.key",
    "mixer.value": "mixer.value",
    "mixer.context": "mixer.context",
    "mixer_output": "mixer",  # with the bias, unlike `mixer`
    "mixer_residual": "mixer_residual",
    "norm_2": "norm_2",
    "mlp.router_top_experts": "mlp.router_top_experts",
    "mlp.router_scores": "mlp.router_scores",
    "mlp": "mlp",
}
"""Fast-LLM's name of a hidden state in a block → the trace's; `Router logits` trips over its own shape check."""

ALL = (*list(OURS.values())[:-3], "mlp.router_logits", *list(OURS.values())[-3:])
"""The trace's names in a block, in execution order."""

ROTATED = frozenset({"mixer.query", "mixer.key"})
"""Fast-LLM packs a batch into one sequence and rotates by the position in it (attention only sees differences of
positions); the trace has them rotated by the position in the row."""


@dataclass
class Taps:
    """What is recorded in one forward of `model`, a HuggingfaceGPTModelForCausalLM.

    `operations` are the names recorded in each block besides its output; `rotary` is the key under which Fast-LLM hands
    a block its rotary frequencies.
    """

    model: Any
    recorder: Recorder
    operations: frozenset[str] = frozenset()
    feed: Feed | None = None
    rotary: str = ""
    _routing: dict[str, Tensor] = field(default_factory=dict)

    @property
    def blocks(self) -> list[Any]:
        """The decoder's blocks (Fast-LLM's sequence cannot be sliced)."""
        return list(self.model.fast_llm_base_model.decoder)

    def patterns(self) -> list[str]:
        """Regular expressions for `output_hidden_states`: the final norm, and the operations in each block."""
        final = re.escape(self.model.fast_llm_base_model.head.final_norm.module_name) + "$"
        names = "|".join(re.escape(theirs) for theirs, ours in OURS.items() if ours in self.operations)
        if not names:
            return [final]
        return [final, *(rf"{re.escape(block.module_name)}\.(?:{names})$" for block in self.blocks)]

    def expected(self) -> tuple[str, ...]:
        """Every operation that the trace should hold, in execution order."""
        return tuple(
            f"decoder.{index}.{name}"
            for index, block in enumerate(self.blocks)
            for name in operations_of(block)
            if name in self.operations
        )

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Blocks wrapped for the length of the context, as before whatever happens."""
        with ExitStack() as stack:
            for index, block in enumerate(self.blocks):
                stack.enter_context(self._wrapped(index, block))
                router = getattr(routed(block), "router", None)
                if "mlp.router_logits" in self.operations and router is not None:
                    stack.callback(router.register_forward_hook(self._on_router(index)).remove)
            yield

    @contextmanager
    def _wrapped(self, index: int, block: Any) -> Iterator[None]:
        forward = block.forward
        block.forward = self._recorded(index, block, forward)
        try:
            yield
        finally:
            del block.forward

    def _recorded(self, index: int, block: Any, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(input_: Tensor, kwargs: dict[str, Any], *args: Any, **rest: Any) -> Tensor:
            if index == 0:
                self.recorder.put("embeddings", input_)
                self.recorder.flush()
                input_ = self._fed(0, input_)
            put = partial(self._put, index, kwargs.get(self.rotary))
            sink = _Sink(lambda name, tensor: put(name.removeprefix(f"{block.module_name}."), tensor))
            output = forward(input_, {**kwargs, "hidden_states": sink}, *args, **rest)
            if output.ndim != input_.ndim:
                raise UnsupportedError("Fast-LLM: tracing a model with several prediction heads is not supported")
            self.recorder.put(f"decoder.{index}", output)
            self.recorder.flush()
            return self._fed(index + 1, output)

        return run

    def _fed(self, block: int, tensor: Tensor) -> Tensor:
        return tensor if self.feed is None else self.feed.into(block).reshape(tensor.shape).to(tensor.dtype)

    def _put(self, index: int, frequencies: Tensor | None, name: str, tensor: Tensor) -> None:
        ours = OURS.get(name)
        if ours is None:
            return
        if not name.startswith("mlp.router"):
            if ours in ROTATED and frequencies is not None:
                tensor = from_row_start(tensor, frequencies, self.recorder.inputs)
            self.recorder.put(f"decoder.{index}.{ours}", tensor)
            return
        self._routing[ours] = tensor
        if len(self._routing) == 2:
            experts, scores = by_score(self._routing["mlp.router_top_experts"], self._routing["mlp.router_scores"])
            self.recorder.put(f"decoder.{index}.mlp.router_top_experts", experts)
            self.recorder.put(f"decoder.{index}.mlp.router_scores", scores)
            self._routing.clear()

    def _on_router(self, index: int) -> Callable[..., None]:
        def hook(_: Any, __: Any, logits: Tensor) -> None:
            self.recorder.put(f"decoder.{index}.mlp.router_logits", logits)

        return hook


class _Sink(dict[str, Any]):
    """Takes the place of Fast-LLM's dictionary of hidden states, name → (meta, tensor), and keeps nothing."""

    def __init__(self, put: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._put = put

    def __setitem__(self, name: str, value: tuple[Any, Tensor]) -> None:
        self._put(name, value[1])


def from_row_start(tensor: Tensor, frequencies: Tensor, inputs: Inputs) -> Tensor:
    """Queries or keys (B * T, heads, head_dim), turned back by the angle of their row's first token.

    `frequencies` (B * T, 1, head_dim) are those that Fast-LLM rotated by: cosines, then sines, scaled alike. A rotation
    by angles that do not add up, or by others, stays wrong; the first row is left as it is.
    """
    batch, length = inputs.ids.shape
    starts = torch.tensor([row * length + inputs.padding(row) for row in range(batch)], device=frequencies.device)
    wide = torch.promote_types(tensor.dtype, torch.float32)
    cos, sin = frequencies[starts].to(wide)[:, None].chunk(2, dim=-1)
    scale = torch.hypot(cos, sin)
    cos, sin = cos / scale, sin / scale
    real, imaginary = tensor.to(wide).reshape(batch, length, *tensor.shape[1:]).chunk(2, dim=-1)
    turned = torch.cat([real * cos + imaginary * sin, imaginary * cos - real * sin], dim=-1)
    return turned.to(tensor.dtype).reshape(tensor.shape)


def routed(block: Any) -> Any:
    """The block's mixture of experts (beside a dense MLP or not), None where it has none."""
    mlp = getattr(block.mlp, "routed", block.mlp)
    return mlp if hasattr(mlp, "_mlp_forward") else None


def implementations(blocks: list[Any]) -> dict[str, str]:
    """Axis → what the blocks run, as Fast-LLM resolved it; several are joined by `+`."""
    mixers = [block.mixer for block in blocks]
    experts = [routed(block) for block in blocks]
    found = {
        "attention": {str(mixer._implementation) for mixer in mixers if hasattr(mixer, "_implementation")},
        "moe": {mlp._mlp_forward.__name__.removeprefix("_forward_") for mlp in experts if mlp is not None},
    }
    return {axis: "+".join(sorted(names)) for axis, names in found.items() if names}


def operations_of(block: Any) -> tuple[str, ...]:
    """The trace's names in a block; those of the router only where there is one, its logits first."""
    return tuple(name for name in ALL if routed(block) is not None or not name.startswith("mlp.router"))
