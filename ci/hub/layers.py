"""Assign tensors to layers by their names, and find the kinds of layer of a model. Pure.

A name like `model.layers.3.mlp.experts.5.w1.weight` has the prefix `model.layers` and the index 3. The text model's
layers have the prefix with as many indices as config.json counts layers; other modalities keep all their layers. The
names are those in the checkpoint, which may differ from those of the loaded model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.hub import truncation_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.hub.header import TensorInfo
    from ci.hub.model_config import LayerStack

LayerRequest = int | Literal["auto"]
"""How many layers to keep; "auto" is the fewest that hold every kind of layer."""
INDEXED_NAME = re.compile(r"(?P<prefix>.*?)\.(?P<index>\d+)\.(?P<rest>.+)")
MAX_INDEX_DIGITS = 6
LAYER_LIST_NAMES = {"layers", "layer", "h", "blocks", "block"}
MTP_MODULES = re.compile(r"(?:^|\.)(?:mtp|nextn|eagle)")
"""Names of multi-token prediction modules. They are dropped, also where their indices follow the last layer's."""
SHARED_MTP_MODULES = re.compile(r"(?:^|\.)mtp_norms\.")
"""Modules with a part in the main model: norm 0 is its final norm (Fast-LLM's `MTPLlamaHeadConverter`)."""


@dataclass(frozen=True)
class LayerPrefixes:
    """The depth of each stack of layers, by the prefix of its tensors' names."""

    prefixes: Mapping[str, int]

    def keeps(self, name: str, layers: int) -> bool:
        """Return whether a tensor belongs to the first `layers` layers or to no layer."""
        if MTP_MODULES.search(name):
            return False
        prefix, index, _ = split_layer_name(name)
        return prefix not in self.prefixes or index < min(layers, self.prefixes[prefix])

    def count_mtp_tensors(self, names: Iterable[str]) -> int:
        """Count the tensors of multi-token prediction modules."""
        return sum(not self.keeps(name, max(self.prefixes.values())) for name in names)


@dataclass(frozen=True)
class LayerKind:
    """What layers of one kind have in common: names, dtypes and shapes of tensors, and settings in config.json."""

    tensors: frozenset[tuple[str, str, tuple[int, ...]]]
    settings: tuple[str, ...]

    def describe_difference(self, other: LayerKind) -> str:
        """Describe in a few words how this kind differs from another."""
        own_names, other_names = _shorten_names(self), _shorten_names(other)
        words = [text for text in self.settings if text not in other.settings]
        words += [f"not {text}" for text in other.settings if text not in self.settings and "=" not in text]
        words += _describe_names(own_names - other_names, "with") + _describe_names(other_names - own_names, "without")
        return ", ".join(words) or "other dtypes or shapes"


@dataclass(frozen=True)
class LayerChoice:
    """How many layers are kept; after "auto" also the kinds of layer that two layers would have missed."""

    layers: int
    kinds_missed: tuple[str, ...] = ()


def split_layer_name(name: str) -> tuple[str, int, str]:
    """Split a tensor's name at its first number into prefix, index and rest.

    Without a number it is ("", -1, name).
    """
    match = INDEXED_NAME.fullmatch(name)
    if not match or len(match["index"]) > MAX_INDEX_DIGITS:
        return "", -1, name
    return match["prefix"], int(match["index"]), match["rest"]


def find_layers(names: Iterable[str], stacks: Sequence[LayerStack], *, what: str) -> LayerPrefixes:
    """Find the prefix of each stack of layers that config.json counts.

    Raises RequestError when no prefix fits, or more than one, or when a tensor that would be dropped as multi-token
    prediction belongs to the main model.
    """
    indices: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        if SHARED_MTP_MODULES.search(name):
            raise RequestError(
                f"{what}: hub-tests cannot truncate this yet: {name[:200]} serves both the main model and multi-token "
                "prediction; choose a model without multi-token prediction"
            )
        prefix, index, _ = split_layer_name(name)
        is_other_module = MTP_MODULES.search(name) or truncation_rules.OTHER_MODALITY.search(prefix)
        if index >= 0 and not is_other_module:
            indices[prefix].add(index)
    return LayerPrefixes({_find_prefix(stack, indices, what): stack.depth for stack in stacks})


def classify_layers(
    tensors: Mapping[str, TensorInfo], prefixes: LayerPrefixes, settings: Sequence[tuple[str, ...]]
) -> list[LayerKind]:
    """Return the kind of each layer, from its tensors and its settings in config.json."""
    by_layer: list[set[tuple[str, str, tuple[int, ...]]]] = [set() for _ in settings]
    for name, tensor in tensors.items():
        prefix, index, rest = split_layer_name(name)
        if prefix in prefixes.prefixes and index < len(by_layer):
            label = rest if len(prefixes.prefixes) == 1 else f"{prefix}.{rest}"
            by_layer[index].add((label, tensor.dtype, tensor.shape))
    return [LayerKind(frozenset(own), texts) for own, texts in zip(by_layer, settings, strict=True)]


def count_layers_for_all_kinds(kinds: Sequence[LayerKind]) -> int:
    """Count the fewest layers from the start that hold every kind."""
    return max(kinds.index(kind) for kind in set(kinds)) + 1


def describe_missed_kinds(kinds: Sequence[LayerKind], layers: int) -> tuple[str, ...]:
    """Describe the kinds that the first `layers` layers lack, each by its first layer."""
    first_index = {kind: kinds.index(kind) for kind in kinds if kind not in kinds[:layers]}
    return tuple(f"layer {index}: {kind.describe_difference(kinds[0])}" for kind, index in first_index.items())


def _shorten_names(kind: LayerKind) -> set[str]:
    return {re.sub(r"\.\d+\.", ".*.", name) for name, *_ in kind.tensors}


def _describe_names(names: set[str], word: str) -> list[str]:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return [f"{word} {' and '.join(sorted(names)[:2])}{more}"] if names else []


def _find_prefix(stack: LayerStack, indices: Mapping[str, set[int]], what: str) -> str:
    """Return the prefix that has all indices of the stack.

    Raises RequestError unless exactly one has.
    """
    fitting = [prefix for prefix, present in indices.items() if _has_all(present, stack) and _is_on_side(stack, prefix)]
    named = [prefix for prefix in fitting if prefix.rsplit(".", 1)[-1] in LAYER_LIST_NAMES] or fitting
    if len(named) != 1:
        counted = ", ".join(sorted(f"{prefix} ({len(present)})" for prefix, present in indices.items()))
        listed = ", ".join(sorted(named)) or counted or "none"
        problem = "several lists of tensors have as many" if named else "no list of tensors has as many"
        raise RequestError(f"{what}: config.json says {stack.depth} layers, {problem}: {listed[:300]}")
    siblings = [
        prefix for prefix in fitting if prefix != named[0] and _parent_prefix(prefix) == _parent_prefix(named[0])
    ]
    if siblings:
        raise RequestError(
            f"{what}: {', '.join(siblings)[:300]} beside {named[0]} has one entry a layer too; "
            "hub-tests cannot truncate such a model"
        )
    return named[0]


def _has_all(present: set[int], stack: LayerStack) -> bool:
    return len(present) >= stack.depth and all(index in present for index in range(stack.depth))


def _is_on_side(stack: LayerStack, prefix: str) -> bool:
    return stack.side == "text" or stack.side in prefix.split(".")


def _parent_prefix(prefix: str) -> str:
    return prefix.rpartition(".")[0]
