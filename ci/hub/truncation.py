"""Truncate config.json to the first N layers by the rules table, and list its settings of each layer. Pure."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.hub import truncation_rules
from ci.hub.config_edit import Edit, Keep, Node, Replace, apply_edits, find_node
from ci.hub.truncation_rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.hub.model_config import LayerField, ModelConfig


def truncate_config(config: ModelConfig, layers: int) -> str:
    """Return the text of config.json for the first `layers` layers; nothing else changes.

    Raises RequestError when the model has fewer layers, when parts of the model need more, or, naming the field, when a
    field looks as if it had one value a layer and no rule covers it.
    """
    if not 1 <= layers <= config.depth:
        raise RequestError(
            f"{config.what}: {layers} layers asked for, the model has {config.depth}; ask for 1 to {config.depth}"
        )
    model_type = config.root.value.get("model_type")
    if layers < config.depth and model_type in truncation_rules.NOT_TRUNCATABLE:
        raise RequestError(
            f"{config.what}: hub-tests cannot truncate {model_type}: {truncation_rules.NOT_TRUNCATABLE[model_type]}; "
            f"keep all {config.depth} layers"
        )
    _check_min_layers(config.root, layers, config.what)
    _check_required_kinds(config, layers)
    edits: list[Edit] = [Replace(path, min(layers, stack.depth)) for stack in config.stacks for path in stack.fields]
    edits += [edit for field in config.fields if (edit := _make_edit(field, layers, config.what))]
    return apply_edits(config.text, config.root, edits)


def list_layer_settings(config: ModelConfig) -> list[tuple[str, ...]]:
    """Return the settings of each layer in config.json, as `field=value` texts.

    They are part of a layer's kind.
    """
    fields = [field for field in config.fields if field.distinguishes_layers]
    return [tuple(text for field in fields for text in _describe_setting(field, i)) for i in range(config.depth)]


def _check_min_layers(node: Node, layers: int, what: str) -> None:
    for key, member in (node.members or {}).items():
        if key in truncation_rules.MIN_LAYERS_FIELDS and len(member.spans) > layers:
            reason = truncation_rules.MIN_LAYERS_FIELDS[key]
            raise RequestError(f"{what}: keep at least {len(member.spans)} layers: {reason} ({key})")
        _check_min_layers(member, layers, what)


def _check_required_kinds(config: ModelConfig, layers: int) -> None:
    """Raise RequestError where the kept layers lack a kind that the config class requires.

    Such classes refuse, or silently change, a model without this kind, or without it as the last layer.
    """
    for field in config.fields:
        if field.path[-1] != "layer_types" or not isinstance(field.value, list):
            continue
        model_type = find_node(config.root, field.path[:-1]).value.get("model_type")
        for required, kept, place in (
            (truncation_rules.REQUIRED_KIND, field.value[:layers], "layer"),
            (truncation_rules.REQUIRED_LAST_KIND, field.value[layers - 1 : layers], "layer as the last one"),
        ):
            kind = required.get(model_type)
            if kind in field.value and kind not in kept:
                least = next(i for i, other in enumerate(field.value, 1) if other == kind and i >= layers)
                raise RequestError(f"{config.what}: {model_type} needs a {kind} {place}: keep {least} layers")


def _make_edit(field: LayerField, layers: int, what: str) -> Edit | None:
    """Return the edit of a field; None where it stays.

    Raises RequestError for an unknown field or a value of an unexpected type.
    """
    if field.value is None or field.rule in (Rule.PERIOD, Rule.UNCHANGED):
        return None
    name = ".".join(field.path)
    if field.rule is Rule.UNKNOWN and layers < field.depth:
        raise RequestError(
            f"{what}: hub-tests cannot truncate this yet: {name} {field.rule.value}; "
            f"add a row for {field.path[-1]!r} to ci/hub/truncation_rules.py"
        )
    edit, value = EDITS[field.rule], field.value
    try:
        new = edit(field, layers)
    except (TypeError, ValueError, AttributeError):
        raise RequestError(
            f"{what}: {name} = {json.dumps(value)[:80]} cannot be truncated to {layers} layers ({field.rule.value})"
        ) from None
    return new if not isinstance(new, Replace) or new.value != value else None


def _keep_first(field: LayerField, layers: int) -> Edit | None:
    if not isinstance(field.value, list):
        return None
    if len(field.value) < field.depth:
        raise ValueError
    return Keep(field.path, tuple(range(layers)))


def _keep_below(field: LayerField, layers: int, origin: int = 0) -> Edit:
    return Keep(field.path, tuple(i for i, index in enumerate(field.value) if index - origin < layers))


def _keep_keys(field: LayerField, layers: int) -> Edit:
    return Keep(field.path, tuple(key for key in field.value if int(key) < layers))


def _keep_letters(field: LayerField, layers: int) -> Edit:
    if len(field.value) < field.depth:
        raise ValueError
    return Replace(field.path, field.value[:layers])


def _keep_repeats(field: LayerField, layers: int) -> Edit:
    # `times` is a number that anybody can write: no pattern is repeated more often than there are layers.
    patterns = ((pattern, min(times, layers)) for pattern, times in field.value if pattern)
    kinds = (kind for pattern, times in patterns for _ in range(times) for kind in pattern)
    return Replace(field.path, [[list(islice(kinds, layers)), 1]])


def _drop_mtp(field: LayerField, _: int) -> Edit:
    if isinstance(field.value, list):
        return Keep(field.path, ())
    return Replace(field.path, type(field.value)())


def _refuse_if_set(field: LayerField, layers: int) -> Edit | None:
    if field.value and layers < field.depth:
        raise ValueError
    return None


EDITS: dict[Rule, Callable[[LayerField, int], Edit | None]] = {
    Rule.VALUE_PER_LAYER: _keep_first,
    Rule.INDICES_FROM_0: _keep_below,
    Rule.INDICES_FROM_1: lambda field, layers: _keep_below(field, layers, origin=1),
    Rule.INDEX_KEYS: _keep_keys,
    Rule.LAYER_COUNT: lambda field, layers: Replace(field.path, min(field.value, layers)),
    Rule.LAST_INDEX: lambda field, layers: Replace(field.path, min(field.value, layers - 1)),
    Rule.LETTER_PER_LAYER: _keep_letters,
    Rule.REPEATED_PATTERNS: _keep_repeats,
    Rule.MTP: _drop_mtp,
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
    elif field.rule is Rule.PERIOD and type(value) is int and value > 1:
        yield from (f"{end} of {name}" for end, index in (("start", 0), ("end", value - 1)) if layer % value == index)
