"""Roles and forks: the facts that the gate decides by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.github.gate_input import PullRequest, Role

PULL = PullRequest(7, True, "1" * 40, "o/r", "o/r")


@pytest.mark.parametrize(
    ("role", "can_write"),
    [
        (Role("maintain", "write"), True),
        (Role("release-team", "write"), True),
        (Role("auditors", "read"), False),
        (Role("triage", "write"), False),  # a standard role counts by its own name
        (Role(), False),
    ],
)
def test_a_custom_role_counts_by_its_base(role: Role, can_write: bool) -> None:
    assert role.can_write is can_write


@pytest.mark.parametrize(("head", "is_fork"), [("o/r", False), ("mallory/r", True), (None, True)])
def test_a_deleted_fork_is_a_fork(head: str | None, is_fork: bool) -> None:
    assert replace(PULL, head_repository=head).is_fork is is_fork
