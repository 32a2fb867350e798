"""Undoes exact symmetries of a block: a subject may compute the same function through other internal tensors.

Interleaved RoPE permutes the channels of query and key within each head; a softmax scale may be folded into the query,
a norm's weight into the projections behind it; heads may stand in another order. What the block adds to the residual
stream is the same. A tensor that such a symmetry explains is compared after undoing it, so its error is a real one.

Nothing is undone unless every tensor outside of the attention's and the norms' inside is within its limit, and the
maps of query, key, value and context fit each other: a permutation of the query alone stays an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.equivalence.case_result import CaseComparison
from ci.equivalence.tensor_compare import TensorDiff, compare_tensors
from ci.equivalence.tolerances import SYMMETRY_SPREAD
from ci.tensor_names import CONTEXT, FINAL_NORM, KEY, NORM_1, NORM_2, QUERY, VALUE, operation_of, scope_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    ReadPair = Callable[[str], tuple[Tensor, Tensor]]
    """The subject's tensor of a name, and the expected one."""

ATTENTION = (QUERY, KEY, VALUE, CONTEXT)
NORMS = (NORM_1, NORM_2, FINAL_NORM)
BLOCK = 128
"""Channels that are matched at once."""


@dataclass(frozen=True)
class ChannelMap:
    """actual[..., h, c] = scale[h, c] * expected[..., head[h], channel[h, c]]; scale float64, the others int64."""

    head: Tensor
    channel: Tensor
    scale: Tensor

    def undo(self, actual: Tensor) -> Tensor:
        """Return (…, heads, channels) as the expected side would have it, float64."""
        result = torch.empty_like(actual, dtype=torch.float64)
        heads = self.head[:, None].expand_as(self.channel)
        result[..., heads, self.channel] = actual.double() / self.scale
        return result

    @property
    def reorders_heads(self) -> bool:
        """Whether a head stands in another place."""
        return bool((self.head != torch.arange(len(self.head), device=self.head.device)).any())

    @property
    def permutes_channels(self) -> bool:
        """Whether a channel of a head stands in another place."""
        return bool((self.channel != torch.arange(self.channel.shape[1], device=self.channel.device)).any())


@dataclass(frozen=True)
class Undone:
    """A tensor compared after a symmetry was undone, and the symmetry in words."""

    diff: TensorDiff
    symmetry: str


def undo_symmetries(case: CaseComparison, read: ReadPair) -> CaseComparison:
    """Return the case with each failed tensor that a symmetry explains compared after undoing it.

    The case comes back as it is where something else failed too, or where one failed tensor has no such explanation.
    """
    failed = [measure.tensor for measure in case.measures if not measure.passed]
    if not failed or case.diff.problems or any(operation_of(name) not in (*ATTENTION, *NORMS) for name in failed):
        return case
    undone = {name: u for name in failed if operation_of(name) in NORMS for u in _undo_norm(case, read, name)}
    for block in dict.fromkeys(map(scope_of, failed)):
        wrong = {operation_of(name) for name in failed if scope_of(name) == block} & {*ATTENTION}
        if wrong:
            undone |= {f"{block}.{op}": u for op, u in _undo_attention(case, read, block, wrong)}
    tensors = {**case.diff.tensors, **{name: u.diff for name, u in undone.items()}}
    symmetries = {name: u.symmetry for name, u in undone.items()}
    after = replace(case, diff=replace(case.diff, tensors=tensors), symmetries=symmetries)
    return case if after.failed else after


def find_channel_map(actual: Tensor, expected: Tensor) -> ChannelMap | None:
    """Return the map from (N, heads, channels) `expected` to `actual`; None where there is none.

    A channel that is where it was is not looked for elsewhere. The rounding of either side is not judged here.
    """
    heads, channels = expected.shape[-2:]
    rows, wanted = actual.flatten(1).double(), expected.flatten(1).double()
    norms = torch.linalg.vector_norm(wanted, dim=0)
    if not bool((norms > 0).all()):
        return None
    source = torch.cat([_match(rows[:, i : i + BLOCK], wanted / norms, i) for i in range(0, rows.shape[1], BLOCK)])
    if len(torch.unique(source)) < len(source):
        return None
    head, channel = (source // channels).view(heads, channels), (source % channels).view(heads, channels)
    scale = torch.linalg.vecdot(rows, wanted[:, source], dim=0) / norms[source].square()
    if not bool((head == head[:, :1]).all()) or not bool((scale != 0).all()):
        return None
    return ChannelMap(head[:, 0], channel, scale.view(heads, channels))


def _match(columns: Tensor, directions: Tensor, first: int) -> Tensor:
    """Return for each column (N, n) the index of the most parallel direction (N, C); its own place where it fits."""
    lengths = torch.linalg.vector_norm(columns, dim=0)[:, None].clamp(min=torch.finfo(torch.float64).tiny)
    misfits = 1 - (columns.T @ directions).abs() / lengths
    own = torch.arange(first, first + columns.shape[1], device=columns.device)
    best = misfits.min(dim=1)
    fits = misfits[torch.arange(len(own), device=own.device), own] <= 4 * best.values.clamp(min=1e-12)
    return torch.where(fits, own, best.indices)


def _undo_norm(case: CaseComparison, read: ReadPair, name: str) -> Iterator[Undone]:
    """Yield the norm's output without a scale a channel, where that is the difference."""
    pair = _Pair(case, name, *read(name), heads=1)
    found = pair.find_map()
    if found and not found.permutes_channels:
        yield Undone(pair.compare(found), "its weight folded into what follows")


def _undo_attention(case: CaseComparison, read: ReadPair, block: str, wrong: set[str]) -> Iterator[tuple[str, Undone]]:
    """Yield operation and result of each failed tensor where the maps of all four fit each other."""
    tensors = {operation: read(f"{block}.{operation}") for operation in ATTENTION}
    heads = {op: tensors[QUERY if op in (QUERY, CONTEXT) else KEY][1].shape[2] for op in ATTENTION}
    pairs = {op: _Pair(case, f"{block}.{op}", *tensors[op], heads=heads[op]) for op in ATTENTION}
    found = {op: pair.find_map() if op in wrong else pair.identity for op, pair in pairs.items()}
    maps = {op: map_ for op, map_ in found.items() if map_ is not None}
    if len(maps) == len(ATTENTION) and _scores_are_kept(maps[QUERY], maps[KEY]) and _values_are_kept(maps):
        for operation in wrong:
            yield operation, Undone(pairs[operation].compare(maps[operation]), _describe(maps[operation]))


@dataclass(frozen=True)
class _Pair:
    """Both sides (B, T, …) of one tensor of a case, seen as (B, T, heads, channels)."""

    case: CaseComparison
    name: str
    actual: Tensor
    expected: Tensor
    heads: int

    @property
    def keep(self) -> Tensor:
        """Bool (B, T): the tokens that count."""
        return ~self.case.diff.tensors[self.name].by_token.isnan().to(self.expected.device)

    @property
    def identity(self) -> ChannelMap:
        """The map that changes nothing."""
        channels = self.expected[0, 0].numel() // self.heads
        every = torch.arange(channels, device=self.expected.device).expand(self.heads, channels)
        scale = torch.ones(every.shape, dtype=torch.float64, device=every.device)
        return ChannelMap(torch.arange(self.heads, device=every.device), every, scale)

    def find_map(self) -> ChannelMap | None:
        """Return the simplest map that brings the tensor within its limits: no scale, one scale, or one a channel."""
        found = find_channel_map(self._split(self.actual)[self.keep], self._split(self.expected)[self.keep])
        if found is None:
            return None
        sign, size = found.scale.sign(), found.scale.abs()
        simpler = (replace(found, scale=scale) for scale in (sign, sign * size.mean(), found.scale))
        return next((map_ for map_ in simpler if self._is_within_limits(self.compare(map_))), None)

    def compare(self, map_: ChannelMap) -> TensorDiff:
        """Compare the two sides with the map undone."""
        undone = map_.undo(self._split(self.actual)).reshape(self.expected.shape)
        return compare_tensors(undone, self.expected, keep=self.keep)

    def _split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(*tensor.shape[:2], self.heads, -1)

    def _is_within_limits(self, diff: TensorDiff) -> bool:
        limits = self.case.tolerances
        return diff.error <= limits.get_error_limit(self.name) and diff.token_error <= limits.get_token_limit(self.name)


def _spread_to_queries(map_: ChannelMap, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return head, channel and scale of the key-value head that each of the query heads uses."""
    group = torch.arange(heads, device=map_.head.device) // (heads // len(map_.head))
    return map_.head[group], map_.channel[group], map_.scale[group]


def _scores_are_kept(query: ChannelMap, key: ChannelMap) -> bool:
    """Return whether query times key is the same in every head, up to one factor.

    The softmax scale can undo a factor.
    """
    heads = len(query.head)
    size = heads // len(key.head)
    key_head, key_channel, key_scale = _spread_to_queries(key, heads)
    product = query.scale * key_scale
    constant = bool(((product / product.mean() - 1).abs() < SYMMETRY_SPREAD).all()) and bool(product.mean() > 0)
    return constant and torch.equal(query.head // size, key_head) and torch.equal(query.channel, key_channel)


def _values_are_kept(maps: Mapping[str, ChannelMap]) -> bool:
    """Return whether the context is the mapped values, its heads in the order of the query's."""
    context = maps[CONTEXT]
    heads = len(context.head)
    value_head, value_channel, value_scale = _spread_to_queries(maps[VALUE], heads)
    size = heads // len(maps[VALUE].head)
    same_scale = bool(((context.scale / value_scale - 1).abs() < SYMMETRY_SPREAD).all())
    return (
        same_scale
        and torch.equal(context.head, maps[QUERY].head)
        and torch.equal(context.head // size, value_head)
        and torch.equal(context.channel, value_channel)
    )


def _describe(map_: ChannelMap) -> str:
    said = {
        "heads in another order": map_.reorders_heads,
        "channels permuted within heads": map_.permutes_channels,
        "a scale moved to another factor": bool((map_.scale != 1).any()),
    }
    return ", ".join(words for words, holds in said.items() if holds)
