"""Which tensors belong to the first N layers, and which kinds of layer a model has. Pure, on checkpoint names.

A name like `model.layers.3.mlp.experts.5.w1.weight` has the prefix `model.layers` and the index 3. The text model's
stack is the prefix whose indices are exactly the layers that config.json counts; other towers keep all they have.
Names are upstream's, from the weight map: what a library calls them after loading is another matter.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.hub import rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.hub.header import Tensor
    from ci.hub.model_config import Stack

INDEXED = re.compile(r"(?P<prefix>.*?)\.(?P<index>\d+)\.(?P<rest>.+)")
LIST_NAMES = {"layers", "layer", "h", "blocks", "block"}
MTP = re.compile(r"(?:^|\.)(?:mtp|nextn|eagle)")
"""Modules that predict further tokens. They go, also where they are numbered on from the last layer."""


@dataclass(frozen=True)
class Layers:
    """The stacks of a checkpoint: prefix of the tensors' names to depth."""

    prefixes: Mapping[str, int]

    def keeps(self, name: str, layers: int) -> bool:
        """Whether the tensor belongs to the first `layers` layers or to what all of them share."""
        if MTP.search(name):
            return False
        prefix, index, _ = split(name)
        return prefix not in self.prefixes or index < min(layers, self.prefixes[prefix])

    def mtp(self, names: Iterable[str]) -> int:
        """How many tensors are of modules that predict further tokens."""
        return sum(not self.keeps(name, max(self.prefixes.values())) for name in names)


@dataclass(frozen=True)
class Kind:
    """What makes a layer the kind that it is."""

    tensors: frozenset[tuple[str, str, tuple[int, ...]]]
    settings: tuple[str, ...]

    def against(self, other: Kind) -> str:
        """How this kind differs from another, in few words."""
        here, there = _short_names(self), _short_names(other)
        words = [text for text in self.settings if text not in other.settings]
        words += [f"not {text}" for text in other.settings if text not in self.settings and "=" not in text]
        words += _some(here - there, "with") + _some(there - here, "without")
        return ", ".join(words) or "other dtypes or shapes"


def split(name: str) -> tuple[str, int, str]:
    """Prefix, index and rest of a name at its first number; ("", -1, name) when it has none."""
    match = INDEXED.fullmatch(name)
    if not match or len(match["index"]) > 6:
        return "", -1, name
    return match["prefix"], int(match["index"]), match["rest"]


def find_layers(names: Iterable[str], stacks: Sequence[Stack], *, what: str) -> Layers:
    """Where the stacks that config.json counts are among the tensors' names.

    Raises RequestError when none, or more than one, could be meant.
    """
    indices: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        prefix, index, _ = split(name)
        if index >= 0 and not MTP.search(name) and not rules.TOWER.search(prefix):
            indices[prefix].add(index)
    return Layers({_find(stack, indices, what): stack.depth for stack in stacks})


def kinds(names: Mapping[str, Tensor], layers: Layers, settings: Sequence[tuple[str, ...]]) -> list[Kind]:
    """The kind of each layer: its tensors' names, dtypes and shapes, and what config.json says of it alone."""
    tensors: list[set[tuple[str, str, tuple[int, ...]]]] = [set() for _ in settings]
    for name, tensor in names.items():
        prefix, index, rest = split(name)
        if prefix in layers.prefixes and index < len(tensors):
            tensors[index].add((rest if len(layers.prefixes) == 1 else f"{prefix}.{rest}", tensor.dtype, tensor.shape))
    return [Kind(frozenset(own), said) for own, said in zip(tensors, settings, strict=True)]


def _short_names(kind: Kind) -> set[str]:
    return {re.sub(r"\.\d+\.", ".*.", name) for name, *_ in kind.tensors}


def _some(names: set[str], word: str) -> list[str]:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return [f"{word} {' and '.join(sorted(names)[:2])}{more}"] if names else []


@dataclass(frozen=True)
class Auto:
    """How many layers are kept and, where that was found out, which kinds of layer two layers would have missed."""

    layers: int
    kinds_missed: tuple[str, ...] = ()


def fewest(found: Sequence[Kind]) -> int:
    """The fewest layers from the start that hold every kind."""
    return max(found.index(kind) for kind in set(found)) + 1


def missed(found: Sequence[Kind], layers: int) -> tuple[str, ...]:
    """The kinds that the first `layers` layers lack, by the first layer that has each."""
    beyond = {kind: index for index, kind in reversed(list(enumerate(found))) if kind not in found[:layers]}
    return tuple(
        f"layer {index}: {kind.against(found[0])}" for kind, index in sorted(beyond.items(), key=lambda k: k[1])
    )


def _find(stack: Stack, indices: Mapping[str, set[int]], what: str) -> str:
    wanted = set(range(stack.depth))
    fitting = [prefix for prefix, found in indices.items() if wanted <= found and _on_side(stack, prefix)]
    named = [prefix for prefix in fitting if prefix.rsplit(".", 1)[-1] in LIST_NAMES] or fitting
    if len(named) != 1:
        seen = ", ".join(sorted(named)) or ", ".join(sorted(f"{p} ({len(found)})" for p, found in indices.items()))
        problem = "several lists of tensors could be them" if named else "no list of tensors has as many"
        raise RequestError(f"{what}: config.json says {stack.depth} layers, {problem}: {seen[:300] or 'none'}")
    twins = [prefix for prefix in fitting if prefix != named[0] and _parent(prefix) == _parent(named[0])]
    if twins:
        raise RequestError(
            f"{what}: {', '.join(twins)[:300]} beside {named[0]} are numbered by layer too; not truncated"
        )
    return named[0]


def _on_side(stack: Stack, prefix: str) -> bool:
    return stack.side == "text" or stack.side in prefix.split(".")


def _parent(prefix: str) -> str:
    return prefix.rpartition(".")[0]
