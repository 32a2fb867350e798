"""Small models of four architectures, and requests for their forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.hugging_face import HuggingFace
from tests.ci.subjects.tiny import save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.subjects.base import TraceRequest

NAMES = ("llama", "mistral", "mixtral", "qwen2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    return {name: save_model(name, root / name) for name in NAMES}


@pytest.fixture(scope="module")
def hugging_face() -> Iterator[HuggingFace]:
    with HuggingFace() as reference:
        yield reference


@pytest.fixture
def make(models: dict[str, Path], tmp_path: Path) -> Any:
    """`make(name, label, **fields)` → TraceRequest over two rows, the second left padded by 5."""

    def request(name: str, label: str, **fields: Any) -> TraceRequest:
        inputs = tmp_path / "inputs.safetensors"
        if not inputs.exists():
            save_inputs(inputs, padding=(0, 5))
        return trace_request(models[name], inputs, tmp_path / label, **fields)

    return request
