"""Hooks on a transformers decoder: record each operation, replace block inputs, note which implementation runs.

Attention and experts are recorded where transformers dispatches them, after RoPE:
https://huggingface.co/docs/transformers/en/attention_interface
What code that travels with a model calls itself is watched in that code's modules (`watched_functions`).
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ci.subjects.forward import TeacherForcing, TraceRecorder, sort_by_score
from ci.subjects.hugging_face.structure import (
    classify_mixer,
    find_branch_norms,
    find_child,
    find_decoder_blocks,
    find_mixer,
    find_mixer_name,
    find_mlp,
    find_norm_before_mlp,
    find_prediction_blocks,
    find_router,
    list_operations,
)
from ci.subjects.hugging_face.vision_hooks import VisionHooks
from ci.subjects.hugging_face.vision_structure import find_image_token, find_vision_parts, list_expected_of_images
from ci.subjects.hugging_face.watched_functions import FunctionWatch, find_own_modules
from ci.subjects.image_trace import ImageRecorder
from ci.tensor_names import (
    BRANCH_OPERATIONS,
    CONTEXT,
    EMBEDDINGS,
    FINAL_NORM,
    KEY,
    MIXER,
    MIXER_RESIDUAL,
    MLP,
    NORM_1,
    NORM_2,
    PREDICTION_BLOCK,
    QUERY,
    ROUTER_LOGITS,
    ROUTER_OPERATIONS,
    VALUE,
    block_name,
    list_prediction_head_tensors,
    prediction_head_name,
    tensor_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


@dataclass
class ForwardHooks:
    """The hooks of one forward pass; `ran` is filled with the implementation of each axis that transformers called."""

    model: Any
    recorder: TraceRecorder
    capture_all: bool
    feed: TeacherForcing | None = None
    ran: dict[str, str] = field(default_factory=dict)
    _layer: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the hooks for the length of the context."""
        with ExitStack() as stack:
            for handle in self._register_hooks():
                stack.callback(handle.remove)
            for axis, interface, observer in self._dispatchers():
                stack.enter_context(_observe_dispatch(interface, partial(self._note_implementation, axis), observer))
            if modules := self._own_modules:
                record = self._record if self.capture_all else None
                stack.enter_context(FunctionWatch(modules, partial(self._note_implementation, "attention"), record))
            yield

    @cached_property
    def images(self) -> ImageRecorder | None:
        """What records the tensors of images, None without images."""
        token = find_image_token(self.model.config)
        return ImageRecorder.of_inputs(self.recorder, token, capture_all=self.capture_all, feed=self.feed)

    @cached_property
    def _vision(self) -> VisionHooks | None:
        """The hooks of the vision tower; None without images, or where it has no known form."""
        parts = find_vision_parts(self.model) if self.images else None
        return VisionHooks(parts, self.images, bool(self._own_modules)) if parts and self.images else None

    @cached_property
    def _own_modules(self) -> tuple[ModuleType, ...]:
        """The modules to watch: those of the model's own code, in transformers 4 those of its attention too."""
        own = find_own_modules(self.model)
        if not own or _has_dispatch():
            return own
        mixers = (find_mixer(block) for block in find_decoder_blocks(self.model))
        names = (type(mixer).__module__ for mixer in mixers if classify_mixer(mixer) == "attention")
        return tuple(dict.fromkeys((*own, *(sys.modules[name] for name in names))))

    def list_expected(self) -> tuple[str, ...]:
        """Return every name of a full capture, in execution order."""
        blocks = find_decoder_blocks(self.model)
        operations = [tensor_name(i, name) for i, block in enumerate(blocks) for name in list_operations(block)]
        images = list_expected_of_images(self.model) if self.images else ()
        return (*images, *operations, *list_prediction_head_tensors(1 + len(find_prediction_blocks(self.model))))

    def _register_hooks(self) -> Iterator[Any]:
        blocks = find_decoder_blocks(self.model)
        if self._vision:
            yield from self._vision.register()
        for index, block in enumerate(blocks):
            yield block.register_forward_pre_hook(self._before_block(index), with_kwargs=True)
            if self.capture_all:
                yield from self._register_operation_hooks(block)
            yield block.register_forward_hook(self._after_block(index))
        for head, block in enumerate(find_prediction_blocks(self.model), start=1):
            yield block.register_forward_pre_hook(self._before_prediction_block)
            yield block.register_forward_hook(self._after_prediction_block(head))
        yield self.model.get_output_embeddings().register_forward_pre_hook(self._record_input(FINAL_NORM))

    def _before_block(self, index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._layer = index
            if index:
                return None
            if self.images:
                self.images.finish(_hidden_states(args, kwargs))
            self.recorder.record(EMBEDDINGS, _hidden_states(args, kwargs))
            self.recorder.flush()
            return _replace_hidden_states(args, kwargs, self.feed.read_block_input(0)) if self.feed else None

        return hook

    def _after_block(self, index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            self.recorder.record(block_name(index), output[0] if isinstance(output, tuple) else output)
            self.recorder.flush()
            if not self.feed:
                return None
            forced = self.feed.read_block_input(index + 1)
            return (forced, *output[1:]) if isinstance(output, tuple) else forced

        return hook

    def _before_prediction_block(self, *_: Any) -> None:
        self._layer = None  # what it computes inside has no name

    def _after_prediction_block(self, head: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            block = output[0] if isinstance(output, tuple) else output
            self.recorder.record(prediction_head_name(head, PREDICTION_BLOCK), block)

        return hook

    def _register_operation_hooks(self, block: nn.Module) -> Iterator[Any]:
        mixer, mlp, norm = find_mixer(block), find_mlp(block), find_norm_before_mlp(block)
        if mixer is not None:
            yield mixer.register_forward_pre_hook(self._record_input(NORM_1), with_kwargs=True)
            if (projection := find_child(mixer, "o_proj", "out_proj", "dense")) is not None:
                yield projection.register_forward_pre_hook(self._record_input(CONTEXT), with_kwargs=True)
            yield mixer.register_forward_hook(self._record_output(MIXER))
            if classify_mixer(mixer) == "attention" and type(mixer).__module__ in map(_name_of, self._own_modules):
                yield find_child(mixer, "v_proj").register_forward_hook(self._record_value(mixer))  # type: ignore[union-attr]
            if name := find_mixer_name(block):
                yield mixer.register_forward_hook(lambda *_: self._note_implementation("mixer", name))
        if norm is not None:
            yield norm.register_forward_pre_hook(self._record_input(MIXER_RESIDUAL), with_kwargs=True)
        if mlp is not None:
            if (branches := find_branch_norms(block)) is None:
                yield mlp.register_forward_pre_hook(self._record_input(NORM_2), with_kwargs=True)
            else:
                for name, branch_norm in zip(BRANCH_OPERATIONS, branches, strict=True):
                    yield branch_norm.register_forward_hook(self._record_output(name))
            yield from self._register_router_hooks(mlp if find_router(mlp) is not None else block)
            if (norm_after := find_child(block, "post_feedforward_layernorm")) is not None:
                yield norm_after.register_forward_pre_hook(self._record_input(MLP), with_kwargs=True)
            else:
                yield mlp.register_forward_hook(self._record_output(MLP))

    def _register_router_hooks(self, owner: nn.Module) -> Iterator[Any]:
        """Register the router's hooks: Gemma 4's returns probabilities, so its projection gives the logits."""
        if (router := find_router(owner)) is None:
            return
        projection = find_child(router, "proj")
        yield router.register_forward_hook(self._make_router_hook(has_logits=projection is None))
        if projection is not None:
            yield projection.register_forward_hook(self._record_output(ROUTER_LOGITS))

    def _record_value(self, mixer: Any) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self._record(VALUE, output.reshape(*output.shape[:-1], -1, mixer.head_dim))

        return hook

    def _record_input(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            self._record(name, _hidden_states(args, kwargs or {}))

        return hook

    def _record_output(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._record(name, _first_output(output))

        return hook

    def _record(self, name: str, tensor: Tensor) -> None:
        if name == FINAL_NORM:
            record_heads(self.recorder, FINAL_NORM, tensor)
        elif self._layer is not None:
            self.recorder.record(tensor_name(self._layer, name), tensor)
        elif self._vision:  # its attention, before the first block, is dispatched too
            self._vision.record(name, tensor)

    def _make_router_hook(self, *, has_logits: bool) -> Callable[..., None]:
        """Return a hook that records what a router returns: logits (N, experts), scores (N, k), indices (N, k).

        Any other form of output is not captured. Without `has_logits` the first of the three is something else.
        """

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not (isinstance(output, tuple) and len(output) == 3 and output[1].shape == output[2].shape):
                return
            logits, scores, experts = output
            for name, tensor in zip(ROUTER_OPERATIONS, (logits, *sort_by_score(experts, scores)), strict=True):
                if has_logits or name != ROUTER_LOGITS:
                    self._record(name, tensor)

        return hook

    def _dispatchers(self) -> Iterator[tuple[str, Any, Callable[..., None] | None]]:
        if not _has_dispatch():
            return  # transformers 4: only models with code of their own run there
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        yield "attention", ALL_ATTENTION_FUNCTIONS, self._record_attention if self.capture_all else None
        yield "experts", ALL_EXPERTS_FUNCTIONS, None

    def _note_implementation(self, axis: str, name: str) -> None:
        self.ran[axis] = name

    def _record_attention(self, _: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> None:
        for name, tensor in ((QUERY, query), (KEY, key), (VALUE, value)):
            self._record(name, tensor.transpose(1, 2))


def _has_dispatch() -> bool:
    """Return whether transformers can be asked which attention it calls: from version 5 on."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return hasattr(ALL_ATTENTION_FUNCTIONS, "get_interface")


def record_heads(recorder: TraceRecorder, name: str, tensor: Tensor, *, copy: bool = True) -> None:
    """Record (B, T, size), or (B, T, heads, size) of several prediction heads: the main one first."""
    main, *others = tensor.unbind(dim=2) if tensor.ndim == 4 else (tensor,)
    recorder.record(name, main, copy=copy)
    for head, part in enumerate(others, start=1):
        recorder.record(prediction_head_name(head, name), part, copy=copy)


@contextmanager
def _observe_dispatch(
    interface: Any, note: Callable[[str], None], observer: Callable[..., None] | None
) -> Iterator[None]:
    """Call `note` with an implementation's name, and `observer` with its arguments, whenever it is called."""
    original = interface.get_interface

    def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = original(name, default)

        def run(*args: Any, **kwargs: Any) -> Any:
            note(name)
            if observer is not None:
                observer(*args, **kwargs)
            return function(*args, **kwargs)

        return run

    interface.get_interface = get_interface
    try:
        yield
    finally:
        del interface.get_interface


def _name_of(module: ModuleType) -> str:
    return module.__name__


def _first_output(output: Any) -> Tensor:
    """Return the hidden states of what a module returns: a tensor, a tuple that begins with it, or a mapping."""
    if isinstance(output, dict):
        output = output["hidden_states"]
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor = args[0] if args else kwargs["hidden_states"]
    assert isinstance(tensor, torch.Tensor)  # noqa: S101 (a decoder's first argument is its hidden states)
    return tensor


def _replace_hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> tuple[Any, dict[str, Any]]:
    return ((tensor, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": tensor})
