"""The verbs about subjects, as a person sees them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ci import __main__ as cli

if TYPE_CHECKING:
    import pytest


def test_the_subjects_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["subject", "ls", "--json"]) == 0
    assert [offer["name"] for offer in json.loads(capsys.readouterr().out)][:2] == ["fast_llm", "reference"]
    assert cli.main(["subject", "ls"]) == 0
    assert "attention=sdpa" in capsys.readouterr().out


def test_an_unknown_subject_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["subject", "check", "megatron"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hub-tests: unknown subject 'megatron'. Choose one of fast_llm, reference")
    assert said.count("\n") == 1
