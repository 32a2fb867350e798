from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ci.environments import reference
from ci.environments.description import load_description, shipped_descriptions
from ci.environments.reference import find_reference_python, provide_reference_environments
from ci.errors import RequestError
from ci.models import HubModel, load_models

if TYPE_CHECKING:
    from pathlib import Path

MODEL = HubModel("own", "o/own", "llama", trust_remote_code=True, code_environment="hf-5-14")


def test_each_environment_pins_transformers() -> None:
    named = {model.code_environment for model in load_models().values() if model.code_environment}
    assert named <= set(shipped_descriptions())
    for name in ("hf-4-57", "hf-5-14"):
        assert [r for r in load_description(name).requirements if r.startswith("transformers==")]


def test_one_that_was_not_built_says_how(tmp_path: Path) -> None:
    settings: Any = SimpleNamespace(environment_roots=(tmp_path,))
    with pytest.raises(RequestError, match="not on this machine; build it: hub-tests env build hf-5-14"):
        find_reference_python(MODEL, settings)


def test_one_that_was_built_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "find_base", lambda *_: SimpleNamespace(python=tmp_path / "bin" / "python"))
    settings: Any = SimpleNamespace(environment_roots=(tmp_path,))
    assert find_reference_python(MODEL, settings) == tmp_path / "bin" / "python"


def test_a_run_builds_what_its_models_need_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(reference, "provide_base", lambda description, *_: built.append(description.name))
    plain = HubModel("plain", "o/plain", "llama")
    older = replace(MODEL, name="older", code_environment="hf-4-57")
    provide_reference_environments([plain, MODEL, MODEL, older], None, {}, print)  # type: ignore[arg-type]
    assert built == ["hf-5-14", "hf-4-57"]
