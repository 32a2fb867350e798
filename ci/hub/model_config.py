"""config.json, read: how deep the model is, and every field that is about its layers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.errors import RequestError
from ci.hub import rules
from ci.hub.config_edit import Node, Path, find, parse
from ci.hub.rules import RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    fields = [field for home in homes for field in _fields(find(root, home), home, depth)]
    return Config(text, root, what, stacks, tuple(fields))


def _homes(root: Node, what: str) -> tuple[Path, ...]:
    """The dictionaries that hold the text model's depth: the whole config, a nested one, or both."""
    found = [path for path, node in _dictionaries(root, ()) if _depth_keys(node) or _listed_depth(node)]
    if not found:
        raise RequestError(f"{what}: no field says how many layers the model has (such as num_hidden_layers)")
    if () in found:
        twins = [path for path in found if path and _depths(find(root, path)) == _depths(root)]
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
        node = find(root, home)
        paired = any(key in rules.DECODER_DEPTH for key in _depth_keys(node))
        for key in _depth_keys(node):
            side = next(side for side, names in DEPTH_NAMES if key in names)
            side = "encoder" if side == "text" and paired else side
            sides.setdefault(side, {})[(*home, key)] = _depth(node, key, what)
    if not sides:
        return (Stack("text", _listed_depth(find(root, homes[0])), ()),)
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
