"""Edit a JSON text where it must change and nowhere else: number literals, order, spacing and escapes stay.

`json.dumps(json.loads(text))` would rewrite `0.00001` as `1e-05`, and saving a config with a library adds keys that
stricter readers refuse. So the text is parsed with the position of every value, and an edit replaces or removes
exactly the characters of its value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NESTING = 40
MAX_OBJECTS = 200_000
"""Objects in one text: some list the precision of every module, and each costs some microseconds."""
SPACE = re.compile(r"[ \t\r\n]*")

KeyPath = tuple[str, ...]
"""Keys from the top of the document to a value."""


@dataclass(frozen=True)
class Replace:
    """Replace the value at `path` by `value`."""

    path: KeyPath
    value: Any


@dataclass(frozen=True)
class Keep:
    """Keep the elements at these positions (or keys) of the list (or object) at `path`, and drop the others."""

    path: KeyPath
    kept: tuple[int | str, ...]


Edit = Replace | Keep


@dataclass(frozen=True)
class Node:
    """A value and its text [start, end).

    `spans` are those of an object's members, key included. Those of a list's elements are found when they are needed:
    a list can have a million.
    """

    value: Any
    start: int
    end: int
    spans: tuple[tuple[int, int], ...] = ()
    members: Mapping[str, Node] | None = None


def parse_json(text: str, *, what: str) -> Node:
    """Parse the JSON object in `text` with positions.

    NaN and Infinity are accepted, because Python and so transformers write them. Raises InfrastructureError for
    anything malformed, a duplicate key, nesting over `MAX_NESTING` or more than `MAX_OBJECTS` objects.
    """
    if text.count("{") > MAX_OBJECTS:
        raise InfrastructureError(f"{what}: over {MAX_OBJECTS} objects; refused")
    try:
        node = _parse_value(text, _skip_space(text, 0), 0)
        if _skip_space(text, node.end) != len(text):
            raise ValueError(f"text after the end, at character {node.end}")
    except IndexError:
        raise InfrastructureError(f"{what}: not valid JSON: it ends too early") from None
    except ValueError as problem:
        raise InfrastructureError(f"{what}: not valid JSON: {str(problem)[:200]}") from None
    if node.members is None:
        raise InfrastructureError(f"{what}: expected a JSON object, got {type(node.value).__name__}")
    return node


def apply_edits(text: str, root: Node, edits: Sequence[Edit]) -> str:
    """Return `text` after the edits, which must not overlap. Raises KeyError for a missing path."""
    changes = sorted((_locate_change(text, find_node(root, edit.path), edit) for edit in edits), reverse=True)
    for start, end, new in changes:
        text = text[:start] + new + text[end:]
    return text


def find_node(root: Node, path: KeyPath) -> Node:
    """Return the node at `path`. Raises KeyError when it is missing."""
    for key in path:
        root = (root.members or {})[key]
    return root


def _locate_change(text: str, node: Node, edit: Edit) -> tuple[int, int, str]:
    if isinstance(edit, Replace):
        return node.start, node.end, json.dumps(edit.value)
    all_spans = _find_list_spans(text, node) if node.members is None else node.spans
    names: Sequence[Any] = range(len(all_spans)) if node.members is None else list(node.members)
    kept = set(edit.kept)
    spans = [span for name, span in zip(names, all_spans, strict=True) if name in kept]
    if not spans:
        return node.start, node.end, "[]" if node.members is None else "{}"
    between = text[all_spans[0][1] : all_spans[1][0]] if len(all_spans) > 1 else ""
    return all_spans[0][0], all_spans[-1][1], between.join(text[start:end] for start, end in spans)


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _parse_value(text: str, at: int, depth: int) -> Node:
    if depth > MAX_NESTING:
        raise ValueError("nested too deeply")
    first = text[at]
    if first == "{":
        return _parse_object(text, at, depth)
    if first == "[":
        return _parse_list(text, at, depth)
    value, end = SCALAR.raw_decode(text, at)
    return Node(value, at, end)


def _parse_object(text: str, at: int, depth: int) -> Node:
    members: dict[str, Node] = {}
    spans = []
    end = _skip_space(text, at + 1)
    while text[end] != "}" or members:
        if text[end] != '"':
            raise ValueError(f"expected a key at character {end}")
        start = end
        key, end = SCALAR.raw_decode(text, start)
        if key in members:
            raise ValueError(f"duplicate key {key!r}")
        members[key] = _parse_value(text, _skip_space(text, _expect_char(text, _skip_space(text, end), ":")), depth + 1)
        spans.append((start, members[key].end))
        end = _skip_space(text, members[key].end)
        if text[end] == "}":
            break
        end = _skip_space(text, _expect_char(text, end, ","))
    return Node({key: node.value for key, node in members.items()}, at, end + 1, tuple(spans), members)


def _parse_list(text: str, at: int, depth: int) -> Node:
    """Parse a list whole, without the positions of its elements."""
    try:
        value, end = SCALAR.raw_decode(text, at)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _count_levels(value) > MAX_NESTING - depth:
        raise ValueError("nested too deeply")
    return Node(value, at, end)


def _find_list_spans(text: str, node: Node) -> tuple[tuple[int, int], ...]:
    """Find the text [start, end) of each element of a list that was parsed before."""
    spans: list[tuple[int, int]] = []
    at = _skip_space(text, node.start + 1)
    while text[at] != "]":
        _, end = SCALAR.raw_decode(text, at)
        spans.append((at, end))
        at = _skip_space(text, end)
        at = _skip_space(text, at + 1) if text[at] == "," else at
    return tuple(spans)


def _count_levels(value: Any) -> int:
    """Count how deeply lists and objects are nested in a value."""
    levels, layer = 0, [value]
    while layer:
        levels += 1
        inner = (item.values() if isinstance(item, dict) else item for item in layer)
        layer = [item for items in inner for item in items if isinstance(item, list | dict)]
    return levels


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object inside of a list. Raises ValueError for a duplicate key."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError(f"duplicate key {next(key for key, _ in pairs if sum(key == k for k, _ in pairs) > 1)!r}")
    return members


SCALAR = json.JSONDecoder(object_pairs_hook=_make_object)
"""Decodes what has no positions of its own: scalars, and lists whole."""


def _expect_char(text: str, at: int, char: str) -> int:
    if text[at] != char:
        raise ValueError(f"expected {char!r} at character {at}")
    return at + 1
