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
SPACE = re.compile(r"[ \t\r\n]*")
SCALAR = json.JSONDecoder()

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

    `spans` are those of a list's elements or of an object's members, key included.
    """

    value: Any
    start: int
    end: int
    spans: tuple[tuple[int, int], ...] = ()
    members: Mapping[str, Node] | None = None


def parse_json(text: str, *, what: str) -> Node:
    """Parse the JSON object in `text` with positions.

    NaN and Infinity are accepted, because Python and so transformers write them. Raises InfrastructureError for
    anything malformed, a duplicate key or nesting over `MAX_NESTING`.
    """
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
    names: Sequence[Any] = range(len(node.spans)) if node.members is None else list(node.members)
    kept = set(edit.kept)
    spans = [span for name, span in zip(names, node.spans, strict=True) if name in kept]
    if not spans:
        return node.start, node.end, "[]" if node.members is None else "{}"
    between = text[node.spans[0][1] : node.spans[1][0]] if len(node.spans) > 1 else ""
    return node.spans[0][0], node.spans[-1][1], between.join(text[start:end] for start, end in spans)


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
    items: list[Node] = []
    end = _skip_space(text, at + 1)
    while text[end] != "]" or items:
        items.append(_parse_value(text, end, depth + 1))
        end = _skip_space(text, items[-1].end)
        if text[end] == "]":
            break
        end = _skip_space(text, _expect_char(text, end, ","))
    return Node([item.value for item in items], at, end + 1, tuple((item.start, item.end) for item in items))


def _expect_char(text: str, at: int, char: str) -> int:
    if text[at] != char:
        raise ValueError(f"expected {char!r} at character {at}")
    return at + 1
