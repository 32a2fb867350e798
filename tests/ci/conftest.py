"""The Hub stand-in for every room's tests."""

from tests.standin.fixtures import hub

__all__ = ["hub"]
