"""Webhook payloads as GitHub records them, with the one thing changed that a test is about."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> dict[str, Any]:
    """The payload of the event `name`, as `tests/e2e/recorded/` keeps it."""
    payload: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return payload


def comment(body: str, *, login: str = "alice", kind: str = "User", action: str = "created") -> dict[str, Any]:
    """Somebody's comment on pull request 7."""
    payload = copy.deepcopy(recorded("issue_comment"))
    payload["action"] = action
    payload["comment"]["body"] = body
    for user in (payload["comment"]["user"], payload["sender"]):
        user.update(login=login, type=kind)
    return payload


def dispatch(**inputs: str) -> dict[str, Any]:
    """Somebody starts the workflow by hand."""
    return recorded("workflow_dispatch") | {"inputs": inputs}


def merge_group(head_sha: str) -> dict[str, Any]:
    """The merge queue asks for checks of its commit."""
    payload = copy.deepcopy(recorded("merge_group"))
    payload["merge_group"]["head_sha"] = head_sha
    return payload


def schedule() -> dict[str, Any]:
    """The clock starts the workflow."""
    return recorded("schedule")
