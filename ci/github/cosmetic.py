"""Calls without which a run can go on: a reaction, a comment, a pending status."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ci.errors import HubTestsError
from ci.github.actions import print_annotation

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def try_cosmetic(what: str, call: Callable[[], T], default: T) -> T:
    """Return the result of `call`, or say that it failed and return `default`."""
    try:
        return call()
    except HubTestsError as error:
        print_annotation("warning", f"{what}: {error}. The run goes on without it.", title="hub-tests")
        return default
