"""Models converted and traced once for all tests of the reference subject."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.subjects.reference.cases import (
    convert_request,
    format_of,
    model,
    save_image_inputs,
    save_inputs,
    trace_request,
)
from tests.standin.own_models import OWN_MODELS, open_side

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class ModelFactory:
    """Makes each model, conversion and trace when it is first asked for."""

    root: Path
    hugging_face: HuggingFace = field(default_factory=HuggingFace)
    own_code: HuggingFace = field(default_factory=open_side)
    subject: ReferenceSubject = field(default_factory=ReferenceSubject)
    dtype: str = "float32"
    """In which the models are published."""

    @property
    def inputs(self) -> Path:
        """Two rows, one of them left padded."""
        path = self.root / "inputs.safetensors"
        return path if path.exists() else save_inputs(path)

    def inputs_of(self, name: str) -> Path:
        """The inputs of a case: with images for a model that sees."""
        path = self.root / "image-inputs.safetensors"
        if format_of(name) != "llava":
            return self.inputs
        return path if path.exists() else save_image_inputs(path)

    def source(self, name: str) -> Path:
        """The Hugging Face directory of a case."""
        path = self.root / name
        return path if path.exists() else model(name, path, dtype=self.dtype)

    def converted(self, name: str) -> Path:
        """The case in Fast-LLM's format, written by the reference subject."""
        path = self.root / f"{name}.fast_llm"
        if not path.exists():
            self.subject.convert(convert_request(self.source(name), path, format_of(name)))
        return path

    def expected(self, name: str, dtype: Any = "float32") -> Path:
        """transformers' trace of everything."""
        path = self.root / f"{name}.expected.{dtype}"
        if not path.exists():
            side = self.own_code if name in OWN_MODELS else self.hugging_face
            side.trace(trace_request(self.source(name), self.inputs_of(name), path, dtype=dtype, capture="all"))
        return path

    def trace(self, name: str, dtype: Any = "float32", **variant: str) -> Path:
        """The reference subject's trace of everything."""
        path = self.root / ".".join((name, dtype, *variant.values()))
        if not path.exists():
            request = trace_request(
                self.converted(name), self.inputs_of(name), path, dtype=dtype, capture="all", variant=variant
            )
            self.subject.trace(request)
        return path


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelFactory]:
    """One factory for a session."""
    with HuggingFace() as hugging_face:
        yield ModelFactory(tmp_path_factory.mktemp("reference"), hugging_face)


@pytest.fixture(autouse=True, scope="session")
def light() -> Iterator[None]:
    """Small matrices are slower on many threads; collecting garbage after each trace need not look at libraries."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)
