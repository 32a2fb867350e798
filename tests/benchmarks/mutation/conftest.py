"""The small models of the equivalence tests: the harness injects its bugs into the same ones."""

from __future__ import annotations

from tests.ci.equivalence.conftest import _one_thread, dense, moe

__all__ = ["_one_thread", "dense", "moe"]
