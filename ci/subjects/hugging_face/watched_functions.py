"""Watches what a model's own modelling code calls: its RoPE, its attention, its recurrences.

transformers' dispatch cannot be asked there. Each function is watched in the module that calls it, by the name that it
has there, for the length of one forward pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ci.subjects.hugging_face.kernels import kda_gate
from ci.tensor_names import BETA, DECAY, KEY, QUERY, RECURRENCE, STEP, VALUE

ROTATIONS = ("apply_rotary_pos_emb",)
RECURRENCES = ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule", "chunk_kda", "fused_recurrent_kda")
SCANS = ("selective_scan_fn",)
EAGER = ("eager_attention_forward",)


def find_own_modules(model: nn.Module) -> tuple[ModuleType, ...]:
    """Return the modules of code that a model's parts are defined in, without those of transformers and torch."""
    names = dict.fromkeys(type(part).__module__ for part in model.modules())
    own = [name for name in names if name.partition(".")[0] not in ("torch", "transformers")]
    return tuple(sys.modules[name] for name in own)


@dataclass
class FunctionWatch:
    """A context that watches `modules`: `note` gets the attention's implementation, `record` each tensor.

    Without `record` only the implementation is noted.
    """

    modules: Iterable[ModuleType]
    note: Callable[[str], None]
    record: Callable[[str, Tensor], None] | None
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        """Replace the functions by ones that are watched."""
        for module in self.modules:
            for names, observer in (
                (ROTATIONS, self._see_rotation),
                (RECURRENCES, self._see_recurrence),
                (SCANS, self._see_scan),
                (EAGER, lambda *_: self.note("eager")),
            ):
                for name in names:
                    self._watch(module, name, observer)
        self._watch(torch.nn.functional, "scaled_dot_product_attention", self._see_sdpa)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the functions back."""
        self._stack.close()

    def _watch(self, module: ModuleType, name: str, observer: Callable[..., None]) -> None:
        original = vars(module).get(name)
        if original is None:
            return

        def run(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            observer(args, kwargs, result)
            return result

        setattr(module, name, run)
        self._stack.callback(setattr, module, name, original)

    def _see_rotation(self, _: Any, __: Any, result: tuple[Tensor, Tensor]) -> None:
        if self.record is not None:
            for name, tensor in zip((QUERY, KEY), result, strict=True):
                self.record(name, tensor.transpose(1, 2))

    def _see_sdpa(self, _: Any, __: Any, ___: Tensor) -> None:
        self.note("sdpa")

    def _see_recurrence(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: tuple[Tensor, Any]) -> None:
        if self.record is None:
            return
        given = dict(zip(("q", "k", "v", "g", "beta"), args, strict=False)) | kwargs
        decay = given["g"]
        if given.get("use_gate_in_kernel"):
            decay = kda_gate(decay, given["A_log"], dt_bias=given["dt_bias"])
        tensors = {QUERY: given["q"], KEY: given["k"], VALUE: given["v"], DECAY: decay, BETA: given["beta"]}
        for name, tensor in {**tensors, RECURRENCE: result[0]}.items():
            self.record(name, tensor)

    def _see_scan(self, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        """Record what a selective scan reads: x and the steps (B, channels, T), B and C (B, heads, state, T)."""
        if self.record is None:
            return
        given = dict(zip(("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus"), args, strict=False))
        given |= kwargs
        key, query = (given[name].permute(0, 3, 1, 2) for name in "BC")
        value = given["u"].transpose(1, 2).unflatten(-1, (query.shape[2], -1))
        step = given["delta"] if (bias := given.get("delta_bias")) is None else given["delta"] + bias[:, None]
        step = (softplus(step) if given.get("delta_softplus") else step).transpose(1, 2)
        for name, tensor in {QUERY: query, KEY: key, VALUE: value, STEP: step}.items():
            self.record(name, tensor)
