"""Hooks on a transformers decoder: record each operation, feed blocks, and see which implementation runs.

Names follow the roles that transformers' decoders share (`self_attn`, `mlp`, the norm before the MLP, `gate`), and
attention and experts are tapped where transformers dispatches them, after RoPE:
https://huggingface.co/docs/transformers/en/attention_interface
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ci.errors import UnsupportedError
from ci.subjects.forward import Feed, Recorder, by_score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPERATIONS = (
    "norm_1",
    "mixer.query",
    "mixer.key",
    "mixer.value",
    "mixer.context",
    "mixer",
    "mixer_residual",
    "norm_2",
    "mlp",
)
ROUTER = ("mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores")


@dataclass
class Taps:
    """The hooks of one forward pass. `ran` fills with what transformers dispatched, by axis."""

    model: Any
    recorder: Recorder
    everything: bool
    feed: Feed | None = None
    ran: dict[str, str] = field(default_factory=dict)
    _block: str = "decoder.0"

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on for the length of the block, off again whatever happens."""
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            for axis, interface, tap in self._dispatchers():
                stack.enter_context(_dispatch_tapped(interface, axis, self.ran, tap))
            yield

    def expected(self) -> tuple[str, ...]:
        """Every name that a capture of everything should hold, in execution order."""
        blocks = decoder_blocks(self.model)
        return tuple(f"decoder.{i}.{name}" for i, block in enumerate(blocks) for name in _operations(block))

    def _hooks(self) -> Iterator[Any]:
        blocks = decoder_blocks(self.model)
        for index, block in enumerate(blocks):
            yield block.register_forward_pre_hook(self._before_block(index), with_kwargs=True)
            if self.everything:
                yield from self._operation_hooks(block)
            yield block.register_forward_hook(self._after_block(index))
        yield self.model.get_output_embeddings().register_forward_pre_hook(self._on_input("final_norm"))

    def _before_block(self, index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._block = f"decoder.{index}"
            if index:
                return None
            self.recorder.put("embeddings", _first(args, kwargs))
            self.recorder.flush()
            return _with_first(args, kwargs, self.feed.into(0)) if self.feed else None

        return hook

    def _after_block(self, index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            self.recorder.put(self._block, output[0] if isinstance(output, tuple) else output)
            self.recorder.flush()
            if not self.feed:
                return None
            fed = self.feed.into(index + 1)
            return (fed, *output[1:]) if isinstance(output, tuple) else fed

        return hook

    def _operation_hooks(self, block: nn.Module) -> Iterator[Any]:
        attention, mlp, norm = _child(block, "self_attn"), _mlp(block), _norm_before_mlp(block)
        if attention is not None:
            yield attention.register_forward_pre_hook(self._on_input("norm_1"), with_kwargs=True)
            if (projection := _child(attention, "o_proj", "out_proj", "dense")) is not None:
                yield projection.register_forward_pre_hook(self._on_input("mixer.context"), with_kwargs=True)
            yield attention.register_forward_hook(self._on_output("mixer"))
        if norm is not None:
            yield norm.register_forward_pre_hook(self._on_input("mixer_residual"), with_kwargs=True)
        if mlp is not None:
            yield mlp.register_forward_pre_hook(self._on_input("norm_2"), with_kwargs=True)
            if (router := _router(mlp)) is not None:
                yield router.register_forward_hook(self._on_router)
            yield mlp.register_forward_hook(self._on_output("mlp"))

    def _on_input(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            self._put(name, _first(args, kwargs or {}))

        return hook

    def _on_output(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._put(name, output[0] if isinstance(output, tuple) else output)

        return hook

    def _put(self, name: str, tensor: Tensor) -> None:
        self.recorder.put(name if name == "final_norm" else f"{self._block}.{name}", tensor)

    def _on_router(self, _: nn.Module, __: Any, output: Any) -> None:
        """A router answers (logits (N, experts), scores (N, k), indices (N, k)); other forms are not captured."""
        if not (isinstance(output, tuple) and len(output) == 3 and output[1].shape == output[2].shape):
            return
        logits, scores, experts = output
        for name, tensor in zip(ROUTER, (logits, *by_score(experts, scores)), strict=True):
            self._put(name, tensor)

    def _dispatchers(self) -> Iterator[tuple[str, Any, Callable[..., None] | None]]:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        yield "attention", ALL_ATTENTION_FUNCTIONS, self._on_attention if self.everything else None
        yield "experts", ALL_EXPERTS_FUNCTIONS, None

    def _on_attention(self, _: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> None:
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            self._put(f"mixer.{name}", tensor.transpose(1, 2))


@contextmanager
def _dispatch_tapped(interface: Any, axis: str, ran: dict[str, str], tap: Callable[..., None] | None) -> Iterator[None]:
    """See each function that a transformers interface hands out, as it is called."""
    original = interface.get_interface

    def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = original(name, default)

        def run(*args: Any, **kwargs: Any) -> Any:
            ran[axis] = name
            if tap is not None:
                tap(*args, **kwargs)
            return function(*args, **kwargs)

        return run

    interface.get_interface = get_interface
    try:
        yield
    finally:
        del interface.get_interface


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The decoder's blocks: the one ModuleList as long as the text config's `num_hidden_layers`."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count and _is_stack(m)]
    if len(lists) != 1:
        raise UnsupportedError(f"{type(model).__name__}: found {len(lists)} stacks of {count} decoder blocks, not one")
    return lists[0]


def has_experts(model: Any) -> bool:
    """Whether some module is a mixture's experts."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())


def _is_stack(modules: nn.ModuleList) -> bool:
    return all(len(list(module.children())) > 1 for module in modules)


def _operations(block: nn.Module) -> tuple[str, ...]:
    mlp = _mlp(block)
    if mlp is None or _child(mlp, "experts") is None:
        return OPERATIONS
    return (*OPERATIONS[:-1], *ROUTER, OPERATIONS[-1])


def _child(module: nn.Module, *names: str) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _mlp(block: nn.Module) -> nn.Module | None:
    return _child(block, "mlp", "block_sparse_moe", "feed_forward")


def _norm_before_mlp(block: nn.Module) -> nn.Module | None:
    return _child(block, "pre_feedforward_layernorm", "post_attention_layernorm")


def _router(mlp: nn.Module) -> nn.Module | None:
    return _child(mlp, "gate", "router")


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor = args[0] if args else kwargs["hidden_states"]
    assert isinstance(tensor, torch.Tensor)  # noqa: S101 (a decoder's first argument is its hidden states)
    return tensor


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> tuple[Any, dict[str, Any]]:
    return ((tensor, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": tensor})
