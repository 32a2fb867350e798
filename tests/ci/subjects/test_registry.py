from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ci.errors import RequestError
from ci.subjects import registry
from ci.subjects.registry import (
    ADAPTERS,
    SUBJECT_NAMES,
    choose_default_subject,
    create_subject,
    shares_interpreter,
)


def test_every_adapter_is_registered_under_its_own_name() -> None:
    assert [adapter.offer.name for adapter in ADAPTERS.values()] == list(SUBJECT_NAMES)
    assert [type(create_subject(name)).__name__ for name in SUBJECT_NAMES] == ["FastLLMSubject", "ReferenceSubject"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'megatron'\. Choose one of fast_llm, reference, or name an adapter: "):
        create_subject("megatron")


@pytest.mark.parametrize(
    ("python", "installed", "default"),
    [(Path("/some/python"), False, "fast_llm"), (None, True, "fast_llm"), (None, False, "reference")],
)
def test_the_default_is_the_first_subject_that_can_run(
    python: Path | None, installed: bool, default: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: object() if installed or name == "ci" else None)
    assert choose_default_subject(python) == default


def test_offers_are_known_without_torch() -> None:
    code = "import sys, ci.subjects.registry; assert not {'torch', 'transformers', 'fast_llm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(registry.__file__).parents[2])


@pytest.mark.parametrize(
    ("name", "installed", "python", "shares"),
    [
        ("fast_llm", True, None, True),
        ("fast_llm", True, "here", True),
        ("fast_llm", True, "elsewhere", False),
        ("fast_llm", False, "here", False),
        ("reference", True, None, False),
        ("reference", True, "here", False),
    ],
)
def test_only_what_is_installed_beside_the_judge_shares_its_interpreter(
    name: str, installed: bool, python: str | None, shares: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "is_importable", lambda _: installed)
    places = {"here": Path(sys.prefix) / "bin" / "python", "elsewhere": tmp_path / "bin" / "python"}
    assert shares_interpreter(name, places[python] if python else None) is shares
