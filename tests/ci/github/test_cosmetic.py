"""A call without which a run can go on never ends the run."""

from __future__ import annotations

import pytest

from ci.errors import InfrastructureError
from ci.github.cosmetic import try_cosmetic


def test_a_call_that_works_gives_its_result() -> None:
    assert try_cosmetic("reaction", lambda: 1, 0) == 1


def test_a_failure_is_said_and_the_default_returned(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise InfrastructureError("GitHub says 403")

    assert try_cosmetic("reaction", fail, 0) == 0
    assert "reaction: GitHub says 403. The run goes on without it." in capsys.readouterr().err


def test_a_bug_is_not_hidden() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        try_cosmetic("reaction", fail, 0)
