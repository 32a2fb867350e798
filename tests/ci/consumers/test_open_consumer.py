"""Which interpreter has a consumer; without one it is said what to do, and nothing is blamed."""

import sys
from pathlib import Path

import pytest

from ci.consumers.open_consumer import find_interpreter
from ci.environments.base import MANIFEST, BaseManifest, base_path
from ci.environments.description import load_description
from ci.errors import NotOfferedError
from ci.records import to_json


def test_transformers_needs_no_environment() -> None:
    assert find_interpreter("transformers", ()) == (Path(sys.executable), {})


def test_an_engine_without_its_environment_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(NotOfferedError, match=r"run hub-tests env build vllm, or name .* --consumer-python"):
        find_interpreter("vllm", (tmp_path,))
    with pytest.raises(NotOfferedError, match="not an executable file"):
        find_interpreter("vllm", (), tmp_path / "python")


def test_a_built_environment_is_found_with_its_variables(tmp_path: Path) -> None:
    description = load_description("vllm")
    path = base_path(tmp_path, description)
    (path / "bin").mkdir(parents=True)
    (path / "bin/python").symlink_to(sys.executable)  # without one, it is half removed
    manifest = BaseManifest(description, description.digest, "3.12.1", {}, "uv", 0.0, "0" * 64)
    (path / MANIFEST).write_text(to_json(manifest))
    python, variables = find_interpreter("vllm", (tmp_path / "other", tmp_path))
    assert python == path / "bin" / "python"
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_a_named_interpreter_wins(tmp_path: Path) -> None:
    assert find_interpreter("vllm", (tmp_path,), Path(sys.executable))[0] == Path(sys.executable)
