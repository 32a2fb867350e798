"""config.json of the first N layers, and what it says of each layer, by the rules table. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.hub import rules
from ci.hub.config_edit import Edit, Keep, Node, Replace, apply, find
from ci.hub.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.hub.model_config import Config, Field


def truncate(config: Config, layers: int) -> str:
    """The text that describes the first `layers` layers; nothing else is changed.

    Raises RequestError when there are fewer, when the model's parts need more, or, naming the field, when something
    looks per-layer and no rule covers it.
    """
    if not 1 <= layers <= config.depth:
        raise RequestError(f"{config.what}: {layers} layers asked for, the model has {config.depth}")
    model_type = config.root.value.get("model_type")
    if layers < config.depth and model_type in rules.NEVER:
        raise RequestError(f"{config.what}: {model_type} cannot be truncated: {rules.NEVER[model_type]}")
    _check_least(config.root, layers, config.what)
    _check_kind(config, layers)
    edits: list[Edit] = [Replace(path, min(layers, stack.depth)) for stack in config.stacks for path in stack.fields]
    edits += [edit for field in config.fields if (edit := _edit(field, layers, config.what))]
    return apply(config.text, config.root, edits)


def layer_settings(config: Config) -> list[tuple[str, ...]]:
    """What config.json says about each layer on its own, as `field=value` texts: part of what makes a layer's kind."""
    telling = [field for field in config.fields if field.distinct]
    return [tuple(text for field in telling for text in _setting(field, i)) for i in range(config.depth)]


def _check_least(node: Node, layers: int, what: str) -> None:
    for key, member in (node.members or {}).items():
        if key in rules.AT_LEAST and len(member.spans) > layers:
            raise RequestError(f"{what}: {len(member.spans)} layers are the fewest: {rules.AT_LEAST[key]} ({key})")
        _check_least(member, layers, what)


def _check_kind(config: Config, layers: int) -> None:
    """Some config classes refuse, or silently change, a model without a kind of layer, or without it at the end."""
    for field in config.fields:
        if field.path[-1] != "layer_types" or not isinstance(field.value, list):
            continue
        model_type = find(config.root, field.path[:-1]).value.get("model_type")
        for needs, kept in (
            (rules.NEEDS_KIND, field.value[:layers]),
            (rules.NEEDS_LAST, field.value[layers - 1 : layers]),
        ):
            kind = needs.get(model_type)
            if kind in field.value and kind not in kept:
                least = next(i for i, other in enumerate(field.value, 1) if other == kind and i >= layers)
                raise RequestError(f"{config.what}: {model_type} needs a {kind} layer there: keep {least} layers")


def _edit(field: Field, layers: int, what: str) -> Edit | None:
    """The edit that a field needs, None where it stays as it is. A value of an unforeseen type is an error."""
    if field.value is None or field.rule in (Rule.PERIOD, Rule.STAYS):
        return None
    if field.rule is Rule.UNKNOWN and layers < field.depth:
        name = ".".join(field.path)
        raise RequestError(f"{what}: {name} {field.rule.value}: add a row for {field.path[-1]!r} to ci/hub/rules.py")
    edit, value = EDITS[field.rule], field.value
    try:
        new = edit(field, layers)
    except (TypeError, ValueError, AttributeError):
        name = ".".join(field.path)
        raise RequestError(
            f"{what}: {name} = {json.dumps(value)[:80]} cannot be truncated to {layers} layers ({field.rule.value})"
        ) from None
    return new if not isinstance(new, Replace) or new.value != value else None


def _first(field: Field, layers: int) -> Edit | None:
    if not isinstance(field.value, list):
        return None
    if len(field.value) < field.depth:
        raise ValueError
    return Keep(field.path, tuple(range(layers)))


def _below(field: Field, layers: int, origin: int = 0) -> Edit:
    return Keep(field.path, tuple(at for at, number in enumerate(field.value) if number - origin < layers))


def _keys(field: Field, layers: int) -> Edit:
    return Keep(field.path, tuple(key for key in field.value if int(key) < layers))


def _letters(field: Field, layers: int) -> Edit:
    if len(field.value) < field.depth:
        raise ValueError
    return Replace(field.path, field.value[:layers])


def _repeats(field: Field, layers: int) -> Edit:
    written_out = [kind for pattern, times in field.value for kind in pattern * times]
    return Replace(field.path, [[written_out[:layers], 1]])


def _no_mtp(field: Field, _: int) -> Edit:
    if isinstance(field.value, list):
        return Keep(field.path, ())
    return Replace(field.path, type(field.value)())


def _refuse(field: Field, layers: int) -> Edit | None:
    if field.value and layers < field.depth:
        raise ValueError
    return None


EDITS: dict[Rule, Callable[[Field, int], Edit | None]] = {
    Rule.FIRST: _first,
    Rule.BELOW: _below,
    Rule.UP_TO: lambda field, layers: _below(field, layers, origin=1),
    Rule.KEYS: _keys,
    Rule.AT_MOST: lambda field, layers: Replace(field.path, min(field.value, layers)),
    Rule.LAST: lambda field, layers: Replace(field.path, min(field.value, layers - 1)),
    Rule.LETTERS: _letters,
    Rule.REPEATS: _repeats,
    Rule.NO_MTP: _no_mtp,
    Rule.REFUSE: _refuse,
    Rule.UNKNOWN: _refuse,
}


def _setting(field: Field, layer: int) -> Iterator[str]:
    """What `field` says about one layer, if it tells layers apart."""
    name, value = field.path[-1], field.value
    if field.rule is Rule.FIRST and isinstance(value, list):
        yield f"{name}={json.dumps(value[layer])}"
    elif field.rule in (Rule.BELOW, Rule.UP_TO) and isinstance(value, list):
        if layer + (field.rule is Rule.UP_TO) in value:
            yield f"in {name}"
    elif field.rule is Rule.KEYS and isinstance(value, dict):
        yield from (f"{name}={json.dumps(setting)}" for key, setting in value.items() if int(key) == layer)
    elif field.rule is Rule.LETTERS and isinstance(value, str):
        yield f"{name}={value[layer]}"
    elif field.rule is Rule.AT_MOST and type(value) is int and layer < value:
        yield f"below {name}"
    elif field.rule is Rule.PERIOD and isinstance(value, str) and value:
        yield f"{name}={value[layer % len(value)]}"
    elif field.rule is Rule.PERIOD and type(value) is int and value > 1:
        yield from (f"{end} of {name}" for end, at in (("start", 0), ("end", value - 1)) if layer % value == at)
