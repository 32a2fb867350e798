"""Truncate config.json to chosen layers by the rules table, and list its settings of each layer. Pure."""

from __future__ import annotations

import json
import math
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from ci.errors import NotTruncatableError, RequestError
from ci.hub import truncation_rules
from ci.hub.architectures import find_architecture
from ci.hub.config_edit import Edit, Keep, Node, Replace, apply_edits, find_node
from ci.hub.config_numbers import MAX_LAYERS
from ci.hub.truncation_rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ci.hub.model_config import LayerField, ModelConfig

Kept = tuple[int, ...]
"""Indices of the kept layers, from 0, ascending; layer `kept[i]` becomes layer i."""
MAX_LIST = 4 * MAX_LAYERS
"""Values that a list about layers may have; MTP layers may follow the model's own."""


def truncate_config(config: ModelConfig, layers: int | Kept, also: Sequence[Edit] = ()) -> str:
    """Return the text of config.json for the first `layers` layers, or for these; nothing else changes.

    `also` are further edits, of other fields. Raises RequestError when the model has fewer layers, NotTruncatableError
    when parts of the model need more, or, naming the field, when a field looks as if it had one value a layer and no
    rule covers it.
    """
    kept = tuple(range(layers)) if isinstance(layers, int) else layers
    _check_kept(config, layers, kept)
    edits: list[Edit] = [
        Replace(path, sum(i < stack.depth for i in kept)) for stack in config.stacks for path in stack.fields
    ]
    edits += [edit for field in config.fields if (edit := _make_edit(field, kept, config.what))]
    return apply_edits(config.text, config.root, [*edits, *also])


def count_required_layers(config: ModelConfig, layers: int) -> int:
    """Return the fewest layers, from `layers` on, that can be run alone; the whole depth always can."""
    for count in range(layers, config.depth):
        if not any(_list_obstacles(config, tuple(range(count)))):
            return count
    return config.depth


def list_layer_settings(config: ModelConfig) -> list[tuple[str, ...]]:
    """Return the settings of each layer in config.json, as `field=value` texts.

    They are part of a layer's kind.
    """
    fields = [field for field in config.fields if field.distinguishes_layers]
    for field in fields:
        _check_length(field, config.what)
    return [tuple(text for field in fields for text in _describe_setting(field, i)) for i in range(config.depth)]


def is_prefix(kept: Kept) -> bool:
    """Return whether these are the first layers."""
    return kept == tuple(range(len(kept)))


def _check_kept(config: ModelConfig, layers: int | Kept, kept: Kept) -> None:
    what, depth = config.what, config.depth
    if isinstance(layers, int) and not 1 <= layers <= depth:
        raise RequestError(f"{what}: {layers} layers asked for, the model has {depth}; ask for 1 to {depth}")
    if not kept or kept != tuple(sorted(set(kept))) or not 0 <= kept[0] <= kept[-1] < depth:
        listed = ",".join(map(str, kept[:20]))
        raise RequestError(f"{what}: layers {listed} asked for; name layers from 0 to {depth - 1}, ascending")
    if not is_prefix(kept) and (config.architecture.shares_layers or len(config.stacks) > 1):
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: layers of {config.model_type or 'this model'} depend on "
            "earlier ones; keep the first N layers"
        )
    if obstacle := next(_list_obstacles(config, kept), ""):
        raise NotTruncatableError(f"{what}: {obstacle}")


def _list_obstacles(config: ModelConfig, kept: Kept) -> Iterator[str]:
    """Yield why these layers cannot be run alone, each with what to ask for instead."""
    if len(kept) < config.depth:
        for model_type in {config.model_type, str(config.root.value.get("model_type"))}:
            if refusal := find_architecture(model_type).refusal:
                yield f"hub-tests cannot truncate {model_type}: {refusal}; keep all {config.depth} layers"
    yield from _list_missing_first_layers(config.root, kept)
    for field in config.fields:
        if field.path[-1] == "layer_types" and isinstance(field.value, list):
            yield from _list_missing_kinds(config, field, kept)


def _list_missing_first_layers(node: Node, kept: Kept) -> Iterator[str]:
    for key, member in (node.members or {}).items():
        if key in truncation_rules.MIN_LAYERS_FIELDS and isinstance(member.value, list):
            least = len(member.value)
            if kept[:least] != tuple(range(least)):
                yield f"keep at least {least} layers: {truncation_rules.MIN_LAYERS_FIELDS[key]} ({key})"
        yield from _list_missing_first_layers(member, kept)


def _list_missing_kinds(config: ModelConfig, field: LayerField, kept: Kept) -> Iterator[str]:
    """Yield the kinds of layers that the config class requires and the kept layers lack.

    Such classes refuse, or silently change, a model without them.
    """
    kinds, layers = field.value, len(kept)
    model_type = find_node(config.root, field.path[:-1]).value.get("model_type")
    architecture = find_architecture(model_type)
    chosen = [kinds[i] for i in kept if i < len(kinds)]
    for kind, present, place in (
        (architecture.required_kind, chosen, "layer"),
        (architecture.required_last_kind, chosen[-1:], "layer as the last one"),
    ):
        if kind and kind in kinds and kind not in present:
            fitting = (i for i, other in enumerate(kinds, 1) if other == kind and i >= layers)
            least = next(fitting, len(kinds))
            yield (
                f"{model_type} needs a {kind} {place}: {least} are the fewest first layers; keep {least} layers, or "
                f"choose layers that end with layer {least - 1}"
            )


def _make_edit(field: LayerField, kept: Kept, what: str) -> Edit | None:
    """Return the edit of a field; None where it stays.

    Raises NotTruncatableError for an unknown field or a value of an unexpected type.
    """
    if field.value is None or field.rule is Rule.UNCHANGED:
        return None
    name = ".".join(field.path)
    if field.rule is Rule.UNKNOWN and len(kept) < field.depth:
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: {name} {field.rule.value}; "
            f"add a row for {field.path[-1]!r} to ci/hub/truncation_rules.py"
        )
    _check_length(field, what)
    edit, value = EDITS[field.rule], field.value
    try:
        new = edit(field, kept)
    except (TypeError, ValueError, AttributeError, IndexError):
        which = f"{len(kept)} layers" if is_prefix(kept) else f"layers {','.join(map(str, kept))}"
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: {name} = {json.dumps(value)[:80]} "
            f"cannot be truncated to {which} ({field.rule.value})"
        ) from None
    return new if not isinstance(new, Replace) or new.value != value else None


def _check_length(field: LayerField, what: str) -> None:
    """Raise RequestError for a list about layers that is longer than any model."""
    if field.rule is not Rule.NAMES and isinstance(field.value, list | dict | str) and len(field.value) > MAX_LIST:
        name = ".".join(field.path)
        raise RequestError(f"{what}: {name} has {len(field.value)} values, hub-tests accepts at most {MAX_LIST}")


def _keep_values(field: LayerField, kept: Kept) -> Edit | None:
    if not isinstance(field.value, list):
        return None
    if len(field.value) < field.depth:
        raise ValueError
    return Keep(field.path, kept)


def _keep_indices(field: LayerField, kept: Kept, origin: int = 0) -> Edit:
    """Keep the indices of kept layers; those of chosen layers are renumbered."""
    if is_prefix(kept):
        return Keep(field.path, tuple(i for i, index in enumerate(field.value) if index - origin < len(kept)))
    new = {index + origin: position + origin for position, index in enumerate(kept)}
    return Replace(field.path, [new[index] for index in field.value if index in new])


def _keep_keys(field: LayerField, kept: Kept) -> Edit:
    if is_prefix(kept):
        return Keep(field.path, tuple(key for key in field.value if int(key) < len(kept)))
    by_index = {int(key): value for key, value in field.value.items()}
    return Replace(field.path, {str(new): by_index[old] for new, old in enumerate(kept) if old in by_index})


def _keep_letters(field: LayerField, kept: Kept) -> Edit:
    if len(field.value) < field.depth:
        raise ValueError
    return Replace(field.path, "".join(field.value[i] for i in kept))


def _keep_repeats(field: LayerField, kept: Kept) -> Edit:
    # `times` is a number that anybody can write: no pattern is repeated more often than there are layers.
    patterns = ((pattern, min(times, kept[-1] + 1)) for pattern, times in field.value if pattern)
    kinds = list(islice((kind for pattern, times in patterns for _ in range(times) for kind in pattern), kept[-1] + 1))
    return Replace(field.path, [[[kinds[i] for i in kept], 1]])


def _count_below(field: LayerField, kept: Kept) -> int:
    return sum(index < field.value for index in kept)


def _check_period(field: LayerField, kept: Kept) -> None:
    """Raise ValueError where a chosen layer would be of another kind at its new place."""
    period = len(field.value) if isinstance(field.value, str) else field.value
    if is_prefix(kept) or not field.distinguishes_layers or not period or isinstance(period, bool):
        return
    if any(old % period != new % period for new, old in enumerate(kept)):
        raise ValueError


def _write_out_cycle(field: LayerField, kept: Kept) -> Edit | None:
    if is_prefix(kept) or not isinstance(field.value, list):
        return None
    return Replace(field.path, [field.value[index % len(field.value)] for index in kept])


def _renumber_names(field: LayerField, kept: Kept) -> Edit | None:
    """Renumber the layers in names of modules, as in `modules_to_not_convert`; those of dropped layers go."""
    if is_prefix(kept):
        return None
    new = {old: position for position, old in enumerate(kept)}

    def renumber(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renumber(item) for key, item in value.items()}
        if isinstance(value, list):
            return [item for item in map(renumber, value) if item is not None]
        match = LAYER_IN_NAME.search(value) if isinstance(value, str) else None
        if match is None:
            return value
        if value.startswith("re:"):
            raise ValueError
        index = new.get(int(match[1]))
        return None if index is None else f"{value[: match.start(1)]}{index}{value[match.end(1) :]}"

    return Replace(field.path, renumber(field.value))


LAYER_IN_NAME = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d{1,6})(?=\.|$)")


def _drop_mtp(field: LayerField, _: Kept) -> Edit:
    if isinstance(field.value, list):
        return Keep(field.path, ())
    return Replace(field.path, type(field.value)())


def _refuse_if_set(field: LayerField, kept: Kept) -> Edit | None:
    if field.value and len(kept) < field.depth:
        raise ValueError
    return None


EDITS: dict[Rule, Callable[[LayerField, Kept], Edit | None]] = {
    Rule.VALUE_PER_LAYER: _keep_values,
    Rule.INDICES_FROM_0: _keep_indices,
    Rule.INDICES_FROM_1: lambda field, kept: _keep_indices(field, kept, origin=1),
    Rule.INDEX_KEYS: _keep_keys,
    Rule.LAYER_COUNT: lambda field, kept: Replace(field.path, _count_below(field, kept)),
    Rule.LAST_INDEX: lambda field, kept: Replace(field.path, sum(index <= field.value for index in kept) - 1),
    Rule.LETTER_PER_LAYER: _keep_letters,
    Rule.REPEATED_PATTERNS: _keep_repeats,
    Rule.MTP: _drop_mtp,
    Rule.DEPTH_SCALE: lambda field, kept: Replace(field.path, field.value * math.sqrt(len(kept) / field.depth)),
    Rule.PERIOD: _check_period,
    Rule.PERIOD_OF_TENSORS: _check_period,
    Rule.CYCLE: _write_out_cycle,
    Rule.NAMES: _renumber_names,
    Rule.REFUSE: _refuse_if_set,
    Rule.UNKNOWN: _refuse_if_set,
}


def _describe_setting(field: LayerField, layer: int) -> Iterator[str]:
    """Yield what `field` says about one layer, if it tells layers apart."""
    name, value = field.path[-1], field.value
    if field.rule is Rule.VALUE_PER_LAYER and isinstance(value, list):
        yield f"{name}={json.dumps(value[layer])}"
    elif field.rule in (Rule.INDICES_FROM_0, Rule.INDICES_FROM_1) and isinstance(value, list):
        if layer + (field.rule is Rule.INDICES_FROM_1) in value:
            yield f"in {name}"
    elif field.rule is Rule.INDEX_KEYS and isinstance(value, dict):
        yield from (f"{name}={json.dumps(setting)}" for key, setting in value.items() if int(key) == layer)
    elif field.rule is Rule.LETTER_PER_LAYER and isinstance(value, str):
        yield f"{name}={value[layer]}"
    elif field.rule is Rule.LAYER_COUNT and type(value) is int and layer < value:
        yield f"below {name}"
    elif field.rule is Rule.PERIOD and isinstance(value, str) and value:
        yield f"{name}={value[layer % len(value)]}"
    elif field.rule is Rule.CYCLE and isinstance(value, list) and value:
        yield f"{name}={json.dumps(value[layer % len(value)])}"
    elif field.rule is Rule.PERIOD and type(value) is int and value > 1:
        yield from (f"{end} of {name}" for end, index in (("start", 0), ("end", value - 1)) if layer % value == index)
