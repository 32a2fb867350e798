"""Hooks on a transformers decoder: record each operation, replace block inputs, note which implementation runs.

Modules are found by the names that transformers' decoders share (`self_attn`, `mlp`, the norm before the MLP, `gate`).
Attention and experts are recorded where transformers dispatches them, after RoPE:
https://huggingface.co/docs/transformers/en/attention_interface
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ci.errors import UnsupportedError
from ci.subjects.forward import TeacherForcing, TraceRecorder, sort_by_score
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
    QUERY,
    ROUTER_LOGITS,
    ROUTER_OPERATIONS,
    VALUE,
    block_name,
    list_block_operations,
    tensor_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class ForwardHooks:
    """The hooks of one forward pass; `ran` is filled with the implementation of each axis that transformers called."""

    model: Any
    recorder: TraceRecorder
    capture_all: bool
    feed: TeacherForcing | None = None
    ran: dict[str, str] = field(default_factory=dict)
    _layer: int = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the hooks for the length of the context."""
        with ExitStack() as stack:
            for handle in self._register_hooks():
                stack.callback(handle.remove)
            for axis, interface, observer in self._dispatchers():
                stack.enter_context(_observe_dispatch(interface, partial(self._note_implementation, axis), observer))
            yield

    def list_expected(self) -> tuple[str, ...]:
        """Return every name of a full capture, in execution order."""
        blocks = find_decoder_blocks(self.model)
        return tuple(tensor_name(i, name) for i, block in enumerate(blocks) for name in _list_operations(block))

    def _register_hooks(self) -> Iterator[Any]:
        blocks = find_decoder_blocks(self.model)
        for index, block in enumerate(blocks):
            yield block.register_forward_pre_hook(self._before_block(index), with_kwargs=True)
            if self.capture_all:
                yield from self._register_operation_hooks(block)
            yield block.register_forward_hook(self._after_block(index))
        yield self.model.get_output_embeddings().register_forward_pre_hook(self._record_input(FINAL_NORM))

    def _before_block(self, index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._layer = index
            if index:
                return None
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

    def _register_operation_hooks(self, block: nn.Module) -> Iterator[Any]:
        attention, mlp, norm = _find_child(block, "self_attn"), _find_mlp(block), _find_norm_before_mlp(block)
        if attention is not None:
            yield attention.register_forward_pre_hook(self._record_input(NORM_1), with_kwargs=True)
            if (projection := _find_child(attention, "o_proj", "out_proj", "dense")) is not None:
                yield projection.register_forward_pre_hook(self._record_input(CONTEXT), with_kwargs=True)
            yield attention.register_forward_hook(self._record_output(MIXER))
        if norm is not None:
            yield norm.register_forward_pre_hook(self._record_input(MIXER_RESIDUAL), with_kwargs=True)
        if mlp is not None:
            if (branches := _find_branch_norms(block)) is None:
                yield mlp.register_forward_pre_hook(self._record_input(NORM_2), with_kwargs=True)
            else:
                for name, branch_norm in zip(BRANCH_OPERATIONS, branches, strict=True):
                    yield branch_norm.register_forward_hook(self._record_output(name))
            yield from self._register_router_hooks(mlp if _find_router(mlp) is not None else block)
            if (norm_after := _find_child(block, "post_feedforward_layernorm")) is not None:
                yield norm_after.register_forward_pre_hook(self._record_input(MLP), with_kwargs=True)
            else:
                yield mlp.register_forward_hook(self._record_output(MLP))

    def _register_router_hooks(self, owner: nn.Module) -> Iterator[Any]:
        """Register the router's hooks: Gemma 4's returns probabilities, so its projection gives the logits."""
        if (router := _find_router(owner)) is None:
            return
        projection = _find_child(router, "proj")
        yield router.register_forward_hook(self._make_router_hook(has_logits=projection is None))
        if projection is not None:
            yield projection.register_forward_hook(self._record_output(ROUTER_LOGITS))

    def _record_input(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            self._record(name, _hidden_states(args, kwargs or {}))

        return hook

    def _record_output(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._record(name, output[0] if isinstance(output, tuple) else output)

        return hook

    def _record(self, name: str, tensor: Tensor) -> None:
        self.recorder.record(name if name == FINAL_NORM else tensor_name(self._layer, name), tensor)

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
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        yield "attention", ALL_ATTENTION_FUNCTIONS, self._record_attention if self.capture_all else None
        yield "experts", ALL_EXPERTS_FUNCTIONS, None

    def _note_implementation(self, axis: str, name: str) -> None:
        self.ran[axis] = name

    def _record_attention(self, _: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> None:
        for name, tensor in ((QUERY, query), (KEY, key), (VALUE, value)):
            self._record(name, tensor.transpose(1, 2))


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


def find_decoder_blocks(model: Any) -> nn.ModuleList:
    """Return the decoder's blocks: the one ModuleList as long as the text config's `num_hidden_layers`."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count and _is_block_list(m)]
    if len(lists) != 1:
        raise UnsupportedError(f"{type(model).__name__}: found {len(lists)} stacks of {count} decoder blocks, not one")
    return lists[0]


def has_experts(model: Any) -> bool:
    """Return whether some module holds the experts of a mixture."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())


def _is_block_list(modules: nn.ModuleList) -> bool:
    return all(len(list(module.children())) > 1 for module in modules)


def _list_operations(block: nn.Module) -> tuple[str, ...]:
    mlp = _find_mlp(block)
    branches = _find_branch_norms(block) is not None
    experts = branches or (mlp is not None and _find_child(mlp, "experts") is not None)
    return list_block_operations(experts=experts, branches=branches)


def _find_child(module: nn.Module, *names: str) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _find_mlp(block: nn.Module) -> nn.Module | None:
    return _find_child(block, "mlp", "block_sparse_moe", "feed_forward")


def _find_norm_before_mlp(block: nn.Module) -> nn.Module | None:
    return _find_child(block, "pre_feedforward_layernorm", "post_attention_layernorm")


def _find_branch_norms(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Return the norms after the dense and the routed branch of a block that has both (Gemma 4)."""
    dense, routed = (_find_child(block, f"post_feedforward_layernorm_{number}") for number in (1, 2))
    return None if dense is None or routed is None else (dense, routed)


def _find_router(mlp: nn.Module) -> nn.Module | None:
    return _find_child(mlp, "gate", "router")


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor = args[0] if args else kwargs["hidden_states"]
    assert isinstance(tensor, torch.Tensor)  # noqa: S101 (a decoder's first argument is its hidden states)
    return tensor


def _replace_hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> tuple[Any, dict[str, Any]]:
    return ((tensor, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": tensor})
