"""Assign tensors to layers by their names, and find the kinds of layer of a model. Pure.

A name like `model.layers.3.mlp.experts.5.w1.weight` has the prefix `model.layers` and the index 3. The text model's
layers have the prefix with as many indices as config.json counts layers; other modalities keep all their layers. The
names are those in the checkpoint, which may differ from those of the loaded model. Tensors of multi-token prediction
(MTP) beside the layers are dropped or kept by the record of the architecture; without one they are an error.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import NotTruncatableError
from ci.hub import truncation_rules
from ci.hub.architectures import UNKNOWN, Architecture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.hub.header import TensorInfo
    from ci.hub.model_config import LayerStack

LayerRequest = int | Literal["auto"] | tuple[int, ...]
"""Which layers to keep: the first N; the fewest first ones that hold every kind of layer; or these, by index from 0."""
INDEXED_NAME = re.compile(r"(?P<prefix>.*?)\.(?P<index>\d+)\.(?P<rest>.+)")
MAX_INDEX_DIGITS = 6
LAYER_LIST_NAMES = {"layers", "layer", "h", "blocks", "block"}
MTP_WORDS = re.compile(r"(?:^|\.)(?:mtp|nextn|eagle)")
"""Names that look like multi-token prediction; the record of the architecture says what they are."""
TEXT_WORDS = re.compile(r"(?:^|\.)(?:language_model|text_model|llm)(?:\.|$)")
"""Names of the text model in a model of several modalities; its layers are counted where others have as many."""
MAX_DROPPED = 20
"""Modules whose dropped tensors are listed one by one."""


@dataclass(frozen=True)
class LayerPrefixes:
    """The depth of each stack of layers, by the prefix of its tensors' names.

    `mtp_layers` layers follow the last one and are dropped with the tensors whose names `mtp` matches. `items` are the
    ends of lists inside of layers, with the layers that their items belong to.
    """

    prefixes: Mapping[str, int]
    mtp_layers: int = 0
    mtp: str = ""
    item_list: str = ""
    item_layers: tuple[int, ...] = ()

    def place(self, name: str, positions: Mapping[int, int]) -> str | None:
        """Return a tensor's name in the truncated model; None where it is dropped.

        `positions` are the new indices of the kept layers, by their old ones.
        """
        if self.is_beside(name):
            return None
        prefix, index, rest = split_layer_name(name)
        if prefix not in self.prefixes:
            return name
        if index not in positions or index >= self.prefixes[prefix] or not self._keeps_item(rest, positions):
            return None
        return name if positions[index] == index else f"{prefix}.{positions[index]}.{rest}"

    def is_beside(self, name: str) -> bool:
        """Return whether a tensor belongs to multi-token prediction and is dropped at any depth."""
        if self.mtp and re.search(self.mtp, name):
            return True
        prefix, index, _ = split_layer_name(name)
        return prefix in self.prefixes and index >= self.prefixes[prefix]

    def list_dropped(self, names: Iterable[str]) -> tuple[str, ...]:
        """Name the modules beside the layers whose tensors are dropped, each with their number."""
        counts = Counter(_name_module(name) for name in names if self.is_beside(name))
        listed = [f"{module}: {count} tensor{'s' * (count > 1)}" for module, count in sorted(counts.items())]
        rest = len(listed) - MAX_DROPPED
        return tuple(listed if rest <= 0 else [*listed[:MAX_DROPPED], f"{rest} more modules"])

    def _keeps_item(self, rest: str, positions: Mapping[int, int]) -> bool:
        if not self.item_list:
            return True
        prefix, item, _ = split_layer_name(rest)
        if not prefix.endswith(self.item_list):
            return True
        return item < len(self.item_layers) and self.item_layers[item] in positions


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
    """How many layers are kept; after "auto" also the kinds of layer that two layers would have missed.

    `picked` are the indices of chosen layers; empty where the first ones are kept.
    """

    layers: int
    kinds_missed: tuple[str, ...] = ()
    picked: tuple[int, ...] = ()

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the kept layers."""
        return self.picked or tuple(range(self.layers))

    @property
    def positions(self) -> dict[int, int]:
        """The new index of each kept layer, by its old one."""
        return {old: new for new, old in enumerate(self.kept)}


def make_choice(layers: int | tuple[int, ...]) -> LayerChoice:
    """Return the choice of a number of layers, or of these layers."""
    if isinstance(layers, int):
        return LayerChoice(layers)
    return LayerChoice(len(layers), picked=() if layers == tuple(range(len(layers))) else layers)


def format_layers(layers: LayerRequest) -> str:
    """Return a request for layers as the word of the command line: `2`, `auto` or `0,3`."""
    return ",".join(map(str, layers)) if isinstance(layers, tuple) else str(layers)


def split_layer_name(name: str) -> tuple[str, int, str]:
    """Split a tensor's name at its first number into prefix, index and rest.

    Without a number it is ("", -1, name).
    """
    match = INDEXED_NAME.fullmatch(name)
    if not match or len(match["index"]) > MAX_INDEX_DIGITS:
        return "", -1, name
    return match["prefix"], int(match["index"]), match["rest"]


def find_layers(
    names: Iterable[str],
    stacks: Sequence[LayerStack],
    *,
    what: str,
    architecture: Architecture = UNKNOWN,
    mtp_layers: int = 0,
    item_layers: tuple[int, ...] = (),
) -> LayerPrefixes:
    """Find the prefix of each stack of layers in config.json, and what is beside them.

    Raises NotTruncatableError when no prefix fits, or more than one, or when a tensor looks like multi-token prediction
    or like a further layer and neither config.json nor the record of the architecture says so.
    """
    indices: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        prefix, index, _ = split_layer_name(name)
        is_mtp = _is_mtp(name, architecture, what)
        if index >= 0 and not is_mtp and not truncation_rules.OTHER_MODALITY.search(prefix):
            indices[prefix].add(index)
    prefixes = {
        prefix: stack.depth for stack in stacks for prefix in _find_prefixes(stack, indices, architecture, what)
    }
    for prefix, depth in prefixes.items():
        if max(indices[prefix]) >= depth + mtp_layers:
            raise NotTruncatableError(
                f"{what}: hub-tests cannot truncate this yet: {prefix}.{max(indices[prefix])} is beyond the {depth} "
                f"layers of config.json and its {mtp_layers} layers of multi-token prediction"
            )
    item_list = architecture.items.list_name if architecture.items else ""
    return LayerPrefixes(prefixes, mtp_layers, architecture.mtp, item_list, item_layers)


def _is_mtp(name: str, architecture: Architecture, what: str) -> bool:
    """Return whether a tensor is multi-token prediction, dropped or kept.

    Raises NotTruncatableError where it looks like it and no record says what it is.
    """
    if any(pattern and re.search(pattern, name) for pattern in (architecture.mtp, architecture.kept_mtp)):
        return True
    if not MTP_WORDS.search(name):
        return False
    raise NotTruncatableError(
        f"{what}: hub-tests cannot truncate this yet: {name[:200]} looks like multi-token prediction, and no record of "
        "the model type says whether the main model needs it; add one to ci/hub/architectures.py"
    )


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


def _name_module(name: str) -> str:
    """Return a tensor's layer, or the first two parts of its name."""
    prefix, index, _ = split_layer_name(name)
    return f"{prefix}.{index}" if index >= 0 else ".".join(name.split(".")[:2])


def _shorten_names(kind: LayerKind) -> set[str]:
    return {re.sub(r"\.\d+\.", ".*.", name) for name, *_ in kind.tensors}


def _describe_names(names: set[str], word: str) -> list[str]:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return [f"{word} {' and '.join(sorted(names)[:2])}{more}"] if names else []


def _find_prefixes(
    stack: LayerStack, indices: Mapping[str, set[int]], architecture: Architecture, what: str
) -> list[str]:
    """Return the stack's prefix, or that of each list that the architecture names.

    Raises NotTruncatableError where none has, or where another one has too.
    """
    fitting = [prefix for prefix, present in indices.items() if _has_all(present, stack) and _is_on_side(stack, prefix)]
    listed = [prefix for prefix in fitting if prefix.rsplit(".", 1)[-1] in architecture.lists]
    if sorted(prefix.rsplit(".", 1)[-1] for prefix in listed) == sorted(architecture.lists) != []:
        return listed
    return [_find_prefix(stack, fitting, indices, what)]


def _find_prefix(stack: LayerStack, fitting: list[str], indices: Mapping[str, set[int]], what: str) -> str:
    """Return the one of the fitting prefixes that holds the layers."""
    named = [prefix for prefix in fitting if prefix.rsplit(".", 1)[-1] in LAYER_LIST_NAMES] or fitting
    named = [prefix for prefix in named if TEXT_WORDS.search(prefix)] or named if len(named) > 1 else named
    if len(named) != 1:
        counted = ", ".join(sorted(f"{prefix} ({len(present)})" for prefix, present in indices.items()))
        listed = ", ".join(sorted(named)) or counted or "none"
        problem = "several lists of tensors have as many" if named else "no list of tensors has as many"
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: config.json says {stack.depth} layers, "
            f"{problem}: {listed[:300]}"
        )
    siblings = [
        prefix for prefix in fitting if prefix != named[0] and _parent_prefix(prefix) == _parent_prefix(named[0])
    ]
    if siblings:
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: {', '.join(siblings)[:300]} beside {named[0]} has one entry "
            "a layer too"
        )
    return named[0]


def _has_all(present: set[int], stack: LayerStack) -> bool:
    return len(present) >= stack.depth and all(index in present for index in range(stack.depth))


def _is_on_side(stack: LayerStack, prefix: str) -> bool:
    return stack.side == "text" or stack.side in prefix.split(".")


def _parent_prefix(prefix: str) -> str:
    return prefix.rpartition(".")[0]
