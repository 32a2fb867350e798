"""GitHub's own OpenAPI description, cut down to what the service calls; and whole answers made from it.

The description comes with the npm package `@octokit/openapi`. Prism holds every request and every answer against it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DESCRIPTION = Path(__file__).parent / "node_modules/@octokit/openapi/generated/api.github.com.json"
REPO = "/repos/{owner}/{repo}"
CALLED = {
    f"{REPO}/collaborators/{{username}}/permission": ("get",),
    f"{REPO}/pulls/{{pull_number}}": ("get",),
    f"{REPO}/issues": ("get", "post"),
    f"{REPO}/issues/{{issue_number}}": ("patch",),
    f"{REPO}/issues/{{issue_number}}/comments": ("get", "post"),
    f"{REPO}/issues/comments/{{comment_id}}": ("patch",),
    f"{REPO}/issues/comments/{{comment_id}}/reactions": ("post",),
    f"{REPO}/actions/runs/{{run_id}}": ("get",),
    f"{REPO}/actions/runs/{{run_id}}/cancel": ("post",),
    f"{REPO}/actions/runs/{{run_id}}/jobs": ("get",),
    f"{REPO}/commits/{{ref}}": ("get",),
    f"{REPO}/statuses/{{sha}}": ("post",),
    f"{REPO}/commits/{{ref}}/statuses": ("get",),
    f"{REPO}/commits/{{commit_sha}}/branches-where-head": ("get",),
    f"{REPO}/compare/{{basehead}}": ("get",),
    f"{REPO}/actions/artifacts": ("get",),
    f"{REPO}/actions/artifacts/{{artifact_id}}/{{archive_format}}": ("get",),
    f"{REPO}/git/ref/{{ref}}": ("get",),
    f"{REPO}/git/refs": ("post",),
    f"{REPO}/git/refs/{{ref}}": ("patch",),
    f"{REPO}/git/commits": ("post",),
    f"{REPO}/git/commits/{{commit_sha}}": ("get",),
    f"{REPO}/git/trees": ("post",),
    f"{REPO}/git/trees/{{tree_sha}}": ("get",),
    f"{REPO}/git/blobs/{{file_sha}}": ("get",),
}
FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "uri": "https://example.invalid/",
    "email": "a@example.invalid",
    "date": "2026-01-02",
}


def load(called: Mapping[str, tuple[str, ...]] = CALLED) -> dict[str, Any]:
    """The part of the description that concerns the calls made here, with every component that it refers to."""
    whole = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    paths = {
        path: {key: value for key, value in whole["paths"][path].items() if key in methods or key == "parameters"}
        for path, methods in called.items()
    }
    kept: dict[str, Any] = {"openapi": whole["openapi"], "info": whole["info"], "paths": paths, "components": {}}
    todo = list(references(paths))
    while todo:
        kind, name = todo.pop().removeprefix("#/components/").split("/", 1)
        if name not in kept["components"].setdefault(kind, {}):
            kept["components"][kind][name] = component = whole["components"][kind][name]
            todo += references(component)
    return kept


def references(node: Any) -> Iterator[str]:
    """Every `$ref` below `node`."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


class Answers:
    """Whole answers: the smallest value that the description allows, with the given facts in it."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = description

    def whole(self, path: str, method: str, status: int, facts: Any) -> Any:
        """`facts` completed into what `method path` answers with `status`."""
        answer = self._resolve(self._description["paths"][path][method]["responses"][str(status)])
        content = answer.get("content", {}).get("application/json")
        return facts if content is None else self._fill(content["schema"], facts)

    def _fill(self, schema: Mapping[str, Any], facts: Any) -> Any:
        schema = self._resolve(schema)
        if isinstance(facts, list):
            return [self._fill(schema.get("items", {}), item) for item in facts]
        if not isinstance(facts, dict):
            return facts
        properties = self._properties(schema)
        filled = {name: self._least(properties.get(name, {})) for name in self._required(schema) if name not in facts}
        return filled | {name: self._fill(properties.get(name, {}), value) for name, value in facts.items()}

    def _least(self, schema: Mapping[str, Any]) -> Any:
        schema = self._resolve(schema)
        if schema.get("nullable"):
            return None
        if "enum" in schema:
            return schema["enum"][0]
        kind = schema.get("type", "object" if "properties" in schema or "allOf" in schema else "string")
        least = {"integer": 1, "number": 1, "boolean": False, "array": [], "string": ""}
        if kind == "string":
            return FORMATS.get(schema.get("format", ""), "x" * max(schema.get("minLength", 1), 1))
        return self._fill(schema, {}) if kind == "object" else least[kind]

    def _properties(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(schema.get("properties", {}))
        for part in schema.get("allOf", []):
            found |= self._properties(self._resolve(part))
        return found

    def _required(self, schema: Mapping[str, Any]) -> list[str]:
        found = list(schema.get("required", []))
        for part in schema.get("allOf", []):
            found += self._required(self._resolve(part))
        return found

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while True:
            if "$ref" in schema:
                node: Any = self._description
                for part in schema["$ref"].removeprefix("#/").split("/"):
                    node = node[part]
                schema = node
            elif options := schema.get("anyOf") or schema.get("oneOf"):
                schema = {**options[0], "nullable": schema.get("nullable", False)}
            else:
                return schema
