"""Formulas of single operations, found on the float64 trace and checked there: norm, attention, router scores.

A formula is not trusted by its name. Its parameters come from config.json or are fitted, and it counts only where it
gives the float64 trace's output from the float64 trace's input. An operation that no formula explains is not judged.
Each formula also computes in low precision in every order that right implementations use: `rounding_floor` needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ci.equivalence.tolerances import FORMULA_ERROR
from ci.tensor_names import (
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
    ROUTER_SCORES,
    TOP_EXPERTS,
    VALUE,
    block_name,
    layer_of,
    operation_of,
    tensor_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    ReadTensor = Callable[[str], Tensor]

EPSILON_KEYS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")


class Formula(Protocol):
    """One operation as a function of captured tensors, in float64 and in each right order of roundings."""

    def limit_to(self, names: Container[str]) -> Formula | None:
        """Return the formula that reads only tensors in `names`; None without one."""
        ...

    def read_inputs(self, read: ReadTensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the inputs: as captured first, then as a fused kernel may have had them, without a rounding."""
        ...

    def compute(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the exact output in float64; the last dimension holds the values that share a statistic."""
        ...

    def round_in_order(self, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the outputs of right implementations in `dtype`, one for each order of roundings."""
        ...


@dataclass(frozen=True)
class NormFormula:
    """RMS norm with a fitted weight (hidden,), float64. `source` is its input, `summands` what that is the sum of."""

    source: str
    summands: tuple[str, ...]
    weight: Tensor
    epsilon: float

    def limit_to(self, names: Container[str]) -> NormFormula | None:
        """Return the formula, without summands where one is not in `names`."""
        if self.source not in names:
            return None
        return self if all(name in names for name in self.summands) else replace(self, summands=())

    def read_inputs(self, read: ReadTensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the captured residual, then the sum of its summands without a rounding (a fused add and norm)."""
        yield (read(self.source).double(),)
        if self.summands:
            first, second = (read(name).double() for name in self.summands)
            yield (first + second,)

    def compute(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return weight x input / RMS."""
        return self.weight * _normalize(inputs[0], self.epsilon)

    def round_in_order(self, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield both orders: the cast before the weight (Llama), and after it (a fused kernel)."""
        normalized = _normalize(inputs[0].float(), self.epsilon)
        yield (self.weight.float() * normalized).to(dtype)
        yield self.weight.to(dtype) * normalized.to(dtype)


@dataclass(frozen=True)
class AttentionFormula:
    """softmax(scale x QKᵀ) V of one layer; `seen` (B, 1, T, T) is True where a query attends to a key."""

    layer: int
    scale: float
    seen: Tensor

    def limit_to(self, names: Container[str]) -> AttentionFormula | None:
        """Return the formula where query, key and value are in `names`."""
        return self if all(tensor_name(self.layer, op) in names for op in (QUERY, KEY, VALUE)) else None

    def read_inputs(self, read: ReadTensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield query, key and value as (B, heads, T, D); a key-value head is repeated for its group."""
        query, key, value = (read(tensor_name(self.layer, op)).transpose(1, 2) for op in (QUERY, KEY, VALUE))
        group = query.shape[1] // key.shape[1]
        yield query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)

    def compute(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the context (B, T, heads, D) in float64."""
        query, key, value = (tensor.double() for tensor in inputs)
        return (self._weigh(query, key) @ value).transpose(1, 2)

    def differentiate_scale(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the derivative of the context by the logarithm of the softmax scale, in float64."""
        query, key, value = (tensor.double() for tensor in inputs)
        scores = self._score(query, key)
        weights = scores.softmax(-1)
        scores = scores.masked_fill(~self.seen, 0)
        centred = scores - (weights * scores).sum(-1, keepdim=True)
        return ((weights * centred) @ value).transpose(1, 2)

    def round_in_order(self, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield eager attention (scores, then probabilities rounded) and a fused kernel (exponentials rounded)."""
        query, key, value = inputs
        scores = ((query @ key.transpose(-1, -2)) * self.scale).masked_fill(~self.seen, -torch.inf)
        yield (scores.float().softmax(-1).to(dtype) @ value).transpose(1, 2)
        scores = self._score(query.float(), key.float())
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        mixed = weights.to(dtype).float() @ value.float()
        yield (mixed / weights.sum(-1, keepdim=True)).to(dtype).transpose(1, 2)

    def _score(self, query: Tensor, key: Tensor) -> Tensor:
        return (self.scale * (query @ key.transpose(-1, -2))).masked_fill(~self.seen, -torch.inf)

    def _weigh(self, query: Tensor, key: Tensor) -> Tensor:
        return self._score(query, key).softmax(-1)


@dataclass(frozen=True)
class RouterFormula:
    """Scores of the chosen experts: softmax or sigmoid of the router's logits, divided by their sum where asked."""

    layer: int
    function: str
    renormalized: bool

    def limit_to(self, names: Container[str]) -> RouterFormula | None:
        """Return the formula where logits and chosen experts are in `names`."""
        return self if all(tensor_name(self.layer, op) in names for op in (ROUTER_LOGITS, TOP_EXPERTS)) else None

    def read_inputs(self, read: ReadTensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the router's logits (B, T, experts) and the chosen experts (B, T, k)."""
        yield read(tensor_name(self.layer, ROUTER_LOGITS)), read(tensor_name(self.layer, TOP_EXPERTS))

    def compute(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the scores (B, T, k) in float64."""
        return self._score(inputs[0].double(), inputs[1])

    def round_in_order(self, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield float32 throughout: the scores are rounded once."""
        yield self._score(inputs[0].float(), inputs[1]).to(dtype)

    def _score(self, logits: Tensor, experts: Tensor) -> Tensor:
        every = logits.softmax(-1) if self.function == "softmax" else logits.sigmoid()
        scores = every.gather(-1, experts)
        return scores / scores.sum(-1, keepdim=True) if self.renormalized else scores


def find_formulas(
    names: tuple[str, ...], read: ReadTensor, config: Mapping[str, Any], keep: Tensor
) -> Iterator[tuple[str, Formula]]:
    """Yield each tensor that a formula explains, with the formula.

    `read` reads a float64 trace; `keep` is bool (B, T).
    """
    settings = {**config, **(config.get("text_config") or {})}
    for name in names:
        operation, output = operation_of(name), read(name)
        candidates: Iterator[Formula] = iter(())
        if operation in (NORM_1, NORM_2, FINAL_NORM):
            candidates = _propose_norms(name, names, read, settings, keep)
        elif operation == CONTEXT:
            candidates = _propose_attention(name, names, read, settings, keep)
        elif operation == ROUTER_SCORES:
            layer = layer_of(name) or 0
            candidates = (RouterFormula(layer, f, r) for f in ("softmax", "sigmoid") for r in (True, False))
        for formula in candidates:
            if formula.limit_to(names) and _explains(formula, read, output, keep):
                yield name, formula
                break


def _explains(formula: Formula, read: ReadTensor, output: Tensor, keep: Tensor) -> bool:
    exact, wanted = formula.compute(next(formula.read_inputs(read)))[keep], output.double()[keep]
    if exact.numel() != wanted.numel():
        return False
    wanted = wanted.reshape(exact.shape)
    return bool((exact - wanted).norm() <= FORMULA_ERROR * wanted.norm())


def _normalize(tensor: Tensor, epsilon: float) -> Tensor:
    return tensor * torch.rsqrt(tensor.pow(2).mean(-1, keepdim=True) + epsilon)


def _propose_norms(
    name: str, names: tuple[str, ...], read: ReadTensor, settings: Mapping[str, Any], keep: Tensor
) -> Iterator[Formula]:
    source, summands = _find_norm_input(name, names)
    if source not in names:
        return
    tensor, output = read(source).double()[keep], read(name).double()[keep]
    if not set(summands) <= set(names) or not _is_sum(tensor, [read(summand).double()[keep] for summand in summands]):
        summands = ()
    for epsilon in (float(settings[key]) for key in EPSILON_KEYS if isinstance(settings.get(key), (int, float))):
        normalized = _normalize(tensor, epsilon)
        weight = (output * normalized).sum(0) / normalized.pow(2).sum(0).clamp(min=torch.finfo(torch.float64).tiny)
        yield NormFormula(source, summands, weight, epsilon)


def _is_sum(tensor: Tensor, summands: list[Tensor]) -> bool:
    """Return whether a tensor is the sum of these: a norm after the attention, or a scale, may be between them."""
    return len(summands) == 2 and bool((sum(summands) - tensor).norm() <= FORMULA_ERROR * tensor.norm())


def _find_norm_input(name: str, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the tensor that a norm reads, and the two that it is the sum of."""
    layer = layer_of(name)
    if layer is not None and operation_of(name) == NORM_2:
        before = block_name(layer - 1) if layer else EMBEDDINGS
        return tensor_name(layer, MIXER_RESIDUAL), (before, tensor_name(layer, MIXER))
    block = max((n for n in map(layer_of, names) if n is not None), default=-1) if layer is None else layer - 1
    if block < 0:
        return EMBEDDINGS, ()
    return block_name(block), (tensor_name(block, MIXER_RESIDUAL), tensor_name(block, MLP))


def _propose_attention(
    name: str, names: tuple[str, ...], read: ReadTensor, settings: Mapping[str, Any], keep: Tensor
) -> Iterator[AttentionFormula]:
    layer = layer_of(name) or 0
    if not {tensor_name(layer, op) for op in (QUERY, KEY, VALUE)} <= set(names):
        return
    query, key, value = (read(tensor_name(layer, op)).shape for op in (QUERY, KEY, VALUE))
    if len(query) != 4 or query[-1] != key[-1] or key[:3] != value[:3] or query[2] % key[2]:
        return
    width = query[-1]
    scales = [width**-0.5, 1.0]
    scales += [float(settings["query_pre_attn_scalar"]) ** -0.5] if settings.get("query_pre_attn_scalar") else []
    scales += [float(settings["attention_multiplier"])] if settings.get("attention_multiplier") else []
    for window in dict.fromkeys((settings.get("sliding_window"), None)):
        seen = _build_mask(keep, window)
        for scale in dict.fromkeys(scales):
            yield AttentionFormula(layer, scale, seen)


def _build_mask(keep: Tensor, window: int | None) -> Tensor:
    """Return the causal mask (B, 1, T, T); padding attends to itself alone."""
    at = torch.arange(keep.shape[1], device=keep.device)
    seen = (at[None, :] <= at[:, None])[None] & keep[:, None, :]
    if window:
        seen = seen & (at[:, None] - at[None, :] < window)
    return (seen | torch.eye(len(at), dtype=torch.bool, device=keep.device))[:, None]
