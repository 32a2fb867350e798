"""Hooks on Fast-LLM's decoder: record each operation and replace block inputs, one block at a time.

Fast-LLM's stages call a block's `forward` directly, so module hooks are not called; `forward` is wrapped on each block
instead. Inside a block, Fast-LLM puts every hidden state that matches `output_hidden_states` into a dictionary. Here
the block gets a dictionary that records each one at once and keeps nothing.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.subjects.fast_llm.mixers import (
    find_mixer,
    find_mixer_path,
    find_mixture,
    list_operations,
    observe_delta_rule,
)
from ci.subjects.fast_llm.recording import HIDDEN_STATES, RecordingDict, replace_forward
from ci.subjects.fast_llm.vision_hooks import VisionHooks, find_image_token, find_vision_encoder
from ci.subjects.forward import Inputs, TeacherForcing, TraceRecorder, sort_by_score
from ci.subjects.image_trace import ImageRecorder
from ci.tensor_names import (
    EMBEDDINGS,
    FINAL_NORM,
    KEY,
    LOGITS,
    PREDICTION_BLOCK,
    QUERY,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    block_name,
    is_router,
    list_prediction_head_tensors,
    prediction_head_name,
    tensor_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROTATED = frozenset({QUERY, KEY})
"""Operations that Fast-LLM rotates by the position in the packed batch, and a trace by the position in the row.

(Attention depends on differences of positions only.)
"""


@dataclass
class ForwardHooks:
    """The hooks of one forward pass of `model`, a HuggingfaceGPTModelForCausalLM.

    `operations` are recorded in each block beside its output; `rotary` is the key under which Fast-LLM passes a block
    its rotary frequencies.
    """

    model: Any
    recorder: TraceRecorder
    operations: frozenset[str] = frozenset()
    feed: TeacherForcing | None = None
    rotary: str = ""
    _routing: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def images(self) -> ImageRecorder | None:
        """What records the tensors of images, None without images."""
        token = find_image_token(self.model.fast_llm_base_model)
        return ImageRecorder.of_inputs(self.recorder, token, capture_all=bool(self.operations), feed=self.feed)

    @property
    def vision(self) -> VisionHooks | None:
        """The hooks of the vision encoder, None without images."""
        encoder = find_vision_encoder(self.model.fast_llm_base_model)
        return VisionHooks(encoder, self.images, self.operations) if encoder and self.images else None

    @property
    def blocks(self) -> list[Any]:
        """The decoder's blocks (Fast-LLM's sequence cannot be sliced)."""
        return list(self.model.fast_llm_base_model.decoder)

    @property
    def prediction(self) -> Any:
        """The blocks and heads that predict further tokens than the next one."""
        return self.model.fast_llm_base_model.multi_token_prediction

    @property
    def final_norms(self) -> list[str]:
        """The names of the hidden states of each prediction head's norm, the main head's first."""
        heads = (self.model.fast_llm_base_model.head, *self.prediction.heads)
        return [head.final_norm.module_name for head in heads]

    def hidden_state_patterns(self) -> list[str]:
        """Return regular expressions for `output_hidden_states`: the final norms and the operations in each block."""
        finals = [re.escape(name) + "$" for name in self.final_norms]
        finals += self.vision.list_patterns() if self.vision else []
        names = [name for name, operation in HIDDEN_STATES.items() if operation in self.operations]
        if not names:
            return finals
        return [*finals, *(self._make_pattern(block, names) for block in self.blocks)]

    def _make_pattern(self, block: Any, names: list[str]) -> str:
        """Return the expression of a block's hidden states; those of a mixer among several are below its name."""
        own = [name.replace("mixer.", f"{find_mixer_path(block)}.") for name in names]
        return rf"{re.escape(block.module_name)}\.(?:{'|'.join(map(re.escape, own))})$"

    def list_expected(self) -> tuple[str, ...]:
        """Return every name of an operation that the trace should hold, in execution order."""
        operations = tuple(
            tensor_name(index, name)
            for index in range(len(self.blocks))
            for name in self.list_recorded(index)
            if name in self.operations
        )
        images = self.vision.list_expected() if self.vision else ()
        return (*images, *operations, *list_prediction_head_tensors(len(self.final_norms)))

    def list_recorded(self, index: int) -> tuple[str, ...]:
        """Return the operations that block `index` has: Fast-LLM names its input `norm_2` where no norm is there."""
        return list_operations(self.blocks[index])

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wrap the blocks for the length of the context."""
        with ExitStack() as stack:
            if self.vision:
                stack.enter_context(self.vision.installed())
            for index, block in enumerate(self.blocks):
                stack.enter_context(self._wrap_block(index, block))
                router = getattr(find_mixture(block), "router", None)
                if ROUTER_LOGITS in self.operations and router is not None:
                    stack.callback(router.register_forward_hook(self._record_router_logits(index)).remove)
                if self.operations:
                    record = partial(self._record_operation, index)
                    stack.enter_context(observe_delta_rule(find_mixer(block), record))
            for head, block in enumerate(self.prediction.blocks, start=1):
                stack.enter_context(replace_forward(block, self._make_prediction_forward(head, block.forward)))
            yield

    def _wrap_block(self, index: int, block: Any) -> AbstractContextManager[None]:
        return replace_forward(block, self._make_forward(index, block, block.forward))

    def _make_forward(self, index: int, block: Any, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(input_: Tensor, kwargs: dict[str, Any], *args: Any, **rest: Any) -> Tensor:
            if index == 0:
                if self.images:
                    self.images.finish(input_)
                self.recorder.record(EMBEDDINGS, input_)
                self.recorder.flush()
                input_ = self._force_input(0, input_)
            record, path = partial(self._record, index, kwargs.get(self.rotary)), find_mixer_path(block)
            states = RecordingDict(
                lambda name, tensor: record(
                    name.removeprefix(f"{block.module_name}.").replace(f"{path}.", "mixer."), tensor
                )
            )
            output = forward(input_, {**kwargs, "hidden_states": states}, *args, **rest)
            if output.ndim == input_.ndim:
                self.recorder.record(block_name(index), output)
                self.recorder.flush()
                return self._force_input(index + 1, output)
            self.recorder.record(block_name(index), output[1])  # before other heads: its input, then its output
            self.recorder.flush()
            return torch.stack((output[0], self._force_input(index + 1, output[1])))

        return run

    def _make_prediction_forward(self, head: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(input_: Tensor, *args: Any, **rest: Any) -> Tensor:
            output = forward(input_, *args, **rest)
            own = output if output.ndim == input_.ndim else output[1]
            self.recorder.record(prediction_head_name(head, PREDICTION_BLOCK), own)
            return output

        return run

    def record_heads(self, hidden_states: dict[str, Tensor], logits: Tensor) -> None:
        """Record each head's final norm and logits: (B, T, vocab), or (B, T, heads, vocab) of several heads."""
        each = logits.unbind(dim=2) if logits.ndim == 4 else (logits,)
        for head, (norm, own) in enumerate(zip(self.final_norms, each, strict=True)):
            for name, tensor, copy in ((FINAL_NORM, hidden_states[norm], True), (LOGITS, own, False)):
                self.recorder.record(prediction_head_name(head, name) if head else name, tensor, copy=copy)

    def _force_input(self, block: int, tensor: Tensor) -> Tensor:
        return tensor if self.feed is None else self.feed.read_block_input(block).reshape(tensor.shape).to(tensor.dtype)

    def _record(self, index: int, frequencies: Tensor | None, name: str, tensor: Tensor) -> None:
        operation = HIDDEN_STATES.get(name)
        if operation is None or operation not in self.list_recorded(index):
            return
        if is_router(operation):
            self._record_routing(index, operation, tensor)
            return
        if operation in ROTATED and frequencies is not None:
            tensor = rotate_to_row_start(tensor, frequencies, self.recorder.inputs)
        self.recorder.record(tensor_name(index, operation), tensor)

    def _record_operation(self, index: int, operation: str, tensor: Tensor) -> None:
        if operation in self.operations:
            self.recorder.record(tensor_name(index, operation), tensor)

    def _record_routing(self, index: int, operation: str, tensor: Tensor) -> None:
        """Wait until both the chosen experts and their scores are there, then sort them together."""
        self._routing[operation] = tensor
        if len(self._routing) == 2:
            experts, scores = sort_by_score(self._routing[TOP_EXPERTS], self._routing[ROUTER_SCORES])
            self.recorder.record(tensor_name(index, TOP_EXPERTS), experts)
            self.recorder.record(tensor_name(index, ROUTER_SCORES), scores)
            self._routing.clear()

    def _record_router_logits(self, index: int) -> Callable[..., None]:
        def hook(_: Any, __: Any, logits: Tensor) -> None:
            self.recorder.record(tensor_name(index, ROUTER_LOGITS), logits)

        return hook


def rotate_to_row_start(tensor: Tensor, frequencies: Tensor, inputs: Inputs) -> Tensor:
    """Rotate queries or keys back by the angle of their row's first token.

    The tensor is (B * T, heads, head_dim).
    `frequencies` (B * T, 1, head_dim) are the ones that Fast-LLM rotated by: cosines, then sines, of one scale. A wrong
    rotation stays wrong, and the first row stays as it is.
    """
    batch, length = inputs.ids.shape
    starts = torch.tensor([row * length + inputs.count_padding(row) for row in range(batch)], device=frequencies.device)
    wide = torch.promote_types(tensor.dtype, torch.float32)
    cos, sin = frequencies[starts].to(wide)[:, None].chunk(2, dim=-1)
    scale = torch.hypot(cos, sin)
    cos, sin = cos / scale, sin / scale
    real, imaginary = tensor.to(wide).reshape(batch, length, *tensor.shape[1:]).chunk(2, dim=-1)
    rotated = torch.cat([real * cos + imaginary * sin, imaginary * cos - real * sin], dim=-1)
    return rotated.to(tensor.dtype).reshape(tensor.shape)


def read_implementations(blocks: list[Any]) -> dict[str, str]:
    """Return axis → the implementation that the blocks run, as Fast-LLM resolved it.

    Several are joined by `+`.
    """
    mixers = [find_mixer(block) for block in blocks]
    experts = [find_mixture(block) for block in blocks]
    names_by_axis = {
        "attention": {str(mixer._implementation) for mixer in mixers if hasattr(mixer, "_implementation")},
        "mixer": {name for block in blocks if (name := find_mixer_path(block).rpartition(".")[2]) != "mixer"},
        "moe": {mlp._mlp_forward.__name__.removeprefix("_forward_") for mlp in experts if mlp is not None},
    }
    return {axis: "+".join(sorted(names)) for axis, names in names_by_axis.items() if names}
