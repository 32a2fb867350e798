"""config.json of the first N layers, from upstream's text and the rules table. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.errors import RequestError
from ci.hub import rules
from ci.hub.config_edit import Edit, Keep, Node, Path, Replace, apply, parse
from ci.hub.rules import RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Side = Literal["text", "encoder", "decoder"]
DEPTH_NAMES: tuple[tuple[Side, tuple[str, ...]], ...] = (
    ("text", rules.DEPTH),
    ("encoder", rules.ENCODER_DEPTH),
    ("decoder", rules.DECODER_DEPTH),
)


@dataclass(frozen=True)
class Stack:
    """One stack of layers: its depth and where config.json says it. A decoder-only model has one, "text"."""

    side: Side
    depth: int
    fields: tuple[Path, ...]


@dataclass(frozen=True)
class Field:
    """A field that is about layers: where it is, what it holds, its rule, the depth that it goes with.

    `distinct` says that layers may differ by it.
    """

    path: Path
    value: Any
    rule: Rule
    depth: int
    distinct: bool = True


@dataclass(frozen=True)
class Config:
    """A config.json, read: its text, its stacks, and every field that the rules speak of."""

    text: str
    root: Node
    what: str
    stacks: tuple[Stack, ...]
    fields: tuple[Field, ...]

    @property
    def depth(self) -> int:
        """Layers of the deepest stack."""
        return max(stack.depth for stack in self.stacks)


def read_config(text: str, *, what: str) -> Config:
    """Find the depth and every field that depends on it.

    Raises RequestError when there is no depth, or no single one; InfrastructureError when the text is not JSON.
    """
    root = parse(text, what=what)
    homes = _homes(root, what)
    stacks = _stacks(root, homes, what)
    depth = max(stack.depth for stack in stacks)
    fields = [field for home in homes for field in _fields(_at(root, home), home, depth)]
    return Config(text, root, what, stacks, tuple(fields))


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


def _homes(root: Node, what: str) -> tuple[Path, ...]:
    """The dictionaries that hold the text model's depth: the whole config, a nested one, or both."""
    found = [path for path, node in _dictionaries(root, ()) if _depth_keys(node) or _listed_depth(node)]
    if not found:
        raise RequestError(f"{what}: no field says how many layers the model has (such as num_hidden_layers)")
    if () in found:
        twins = [path for path in found if path and _depths(_at(root, path)) == _depths(root)]
        return ((), *twins)
    if len(found) > 1:
        found = [path for path in found if path in rules.TEXT_HOMES] or found
    if len(found) > 1:
        names = ", ".join(".".join(path) for path in found)
        raise RequestError(f"{what}: several stacks of layers ({names}); not truncated")
    return (found[0],)


def _dictionaries(node: Node, path: Path) -> Iterator[tuple[Path, Node]]:
    yield path, node
    for key, member in (node.members or {}).items():
        if member.members is not None and not rules.TOWER.search(key) and RULES.get(key) is not Rule.STAYS:
            yield from _dictionaries(member, (*path, key))


def _stacks(root: Node, homes: tuple[Path, ...], what: str) -> tuple[Stack, ...]:
    sides: dict[Side, dict[Path, int]] = {}
    for home in homes:
        node = _at(root, home)
        paired = any(key in rules.DECODER_DEPTH for key in _depth_keys(node))
        for key in _depth_keys(node):
            side = next(side for side, names in DEPTH_NAMES if key in names)
            side = "encoder" if side == "text" and paired else side
            sides.setdefault(side, {})[(*home, key)] = _depth(node, key, what)
    if not sides:
        return (Stack("text", _listed_depth(_at(root, homes[0])), ()),)
    for found in sides.values():
        if len(set(found.values())) > 1:
            names = ", ".join(f"{'.'.join(path)} = {depth}" for path, depth in found.items())
            raise RequestError(f"{what}: contradictory depths: {names}")
    return tuple(Stack(side, next(iter(found.values())), tuple(found)) for side, found in sides.items())


def _depth(node: Node, key: str, what: str) -> int:
    value = node.value[key]
    if type(value) is not int or value < 1:
        raise RequestError(f"{what}: {key} is {str(value)[:50]}, expected a number of layers")
    return value


def _listed_depth(node: Node) -> int:
    kinds = node.value.get(rules.DEPTH_LIST)
    return len(kinds) if isinstance(kinds, list) else 0


def _depth_keys(node: Node) -> list[str]:
    return [key for _, names in DEPTH_NAMES for key in names if node.value.get(key) is not None]


def _depths(node: Node) -> list[Any]:
    return [node.value[key] for key in _depth_keys(node)]


def _at(root: Node, path: Path) -> Node:
    for key in path:
        root = (root.members or {})[key]
    return root


def _fields(node: Node, home: Path, depth: int) -> Iterator[Field]:
    if period := _implied_period(node):
        yield Field((*home, f"every {period} layers"), period, Rule.PERIOD, depth)
    for key, member in (node.members or {}).items():
        path = (*home, key)
        rule = RULES.get(key)
        if rule is not None:
            yield Field(path, member.value, _refined(rule, member.value), depth, _distinct(key, rule, node))
        elif member.members is not None and not _numbered(member.value):
            if not rules.TOWER.search(key) and not _depth_keys(member):
                yield from _fields(member, path, depth)
        elif key not in _depth_keys(node) and _looks_per_layer(key, member.value, depth):
            yield Field(path, member.value, Rule.UNKNOWN, depth)


def _implied_period(node: Node) -> int | None:
    said = any(RULES.get(key) is Rule.PERIOD and value for key, value in node.value.items())
    if said or isinstance(node.value.get("layer_types"), list):
        return None
    return rules.IMPLIED_PERIOD.get(node.value.get("model_type"))


def _distinct(key: str, rule: Rule, node: Node) -> bool:
    """Some fields count only where another says so, and a period only where no list spells out what comes of it."""
    if key in rules.ONLY_IF:
        return bool(node.value.get(rules.ONLY_IF[key]))
    return rule is not Rule.PERIOD or not isinstance(node.value.get("layer_types"), list)


def _refined(rule: Rule, value: Any) -> Rule:
    """Some fields are a period in one model and a list with one value a layer in the next."""
    return Rule.FIRST if rule is Rule.PERIOD and isinstance(value, list) else rule


def _looks_per_layer(key: str, value: Any, depth: int) -> bool:
    if isinstance(value, list) and value:
        numbers = all(type(item) is int and 0 <= item < depth for item in value)
        return (
            len(value) == depth or bool(rules.LAYERISH.search(key)) or (numbers and bool(rules.NUMBERISH.search(key)))
        )
    if isinstance(value, dict):
        return _numbered(value)
    if isinstance(value, str):
        return len(value) == depth and ("pattern" in key or bool(rules.LAYERISH.search(key)))
    return type(value) is int and value > 0 and bool(rules.COUNTISH.search(key))


def _numbered(value: dict[str, Any]) -> bool:
    return bool(value) and all(key.isdecimal() for key in value)


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
        model_type = _at(config.root, field.path[:-1]).value.get("model_type")
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
