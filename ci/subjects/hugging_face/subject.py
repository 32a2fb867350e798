"""Hugging Face's side as a worker's subject: for models whose code travels with them, in an environment of its own.

The worker gets the directory of that code in a variable, and nothing of it reaches the judge's process.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.subjects.base import (
    ConvertRequest,
    ConvertResult,
    Description,
    DType,
    ExportRequest,
    GradientRequest,
    GradientResult,
    TraceRequest,
    TraceResult,
    Variant,
)
from ci.subjects.hugging_face.runner import HuggingFace
from ci.subjects.provenance import installed_versions, python_version

if TYPE_CHECKING:
    from ci.subjects.training import TrainRequest, TrainResult

CODE_VARIABLE = "HUB_TESTS_MODEL_CODE"
"""The variable that names the directory of the modelling code."""
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "fla-core",
    "causal-conv1d",
    "flash-attn",
)
NO_CONVERSION = "Hugging Face's side converts nothing: it is the yardstick"


@dataclass
class HuggingFaceSubject:
    """Answers the protocol's calls by transformers."""

    code: Path | None = field(default_factory=lambda: Path(named) if (named := os.environ.get(CODE_VARIABLE)) else None)
    side: HuggingFace = field(init=False)

    def __post_init__(self) -> None:
        self.side = HuggingFace(code=self.code)

    def prepare(self) -> None:
        """Import transformers' models."""
        import transformers.models.auto.modeling_auto  # noqa: F401

    def describe(self) -> Description:
        """Return the versions of transformers and of what the modelling code may use."""
        libraries = installed_versions(LIBRARIES)
        return Description("hugging_face", libraries.get("transformers", ""), None, python_version(), libraries, ())

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the implementations that the model can run."""
        return self.side.variants(checkpoint)

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass and write a trace directory."""
        return self.side.trace(request)

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run the backward pass and write a directory of gradients."""
        return self.side.gradients(request)

    def train(self, request: TrainRequest) -> TrainResult:
        """Run optimizer steps in one process and write each step's gradients."""
        return self.side.train(request)

    def train_in_parts(self, request: TrainRequest) -> TrainResult:
        """Run the steps, and write the parts of the first gradient too."""
        return self.side.train_in_parts(request)

    def release(self) -> None:
        """Unload the model."""
        self.side.release()

    def describe_side(self, checkpoint: str) -> str:
        """Say which transformers runs."""
        return self.side.describe_side(checkpoint)

    def runs_code_under_test(self) -> bool:
        """Return False: only the judge, who started this worker, knows whose code it was given."""
        return False

    def resolve_config(self, checkpoint: str) -> dict[str, Any]:
        """Return config.json as the model's own config class understands it, and the kernels that have stand-ins."""
        code = self.side.loader.load_code(checkpoint)
        config = json.loads(json.dumps(self.side.resolve_config(checkpoint), default=str))
        return {"config": config, "stand_ins": list(code.stand_ins) if code else []}

    def write_model(self, source: str, target: str, dtype: DType, seed: int) -> ConvertResult:
        """Write a model with drawn weights at `target`, for the config.json in `source`."""
        return self.side.write_model(source, target, dtype, seed)

    def convert(self, _: ConvertRequest) -> ConvertResult:
        """Refuse: nothing is converted."""
        raise UnsupportedError(NO_CONVERSION)

    def export(self, _: ExportRequest) -> ConvertResult:
        """Refuse: nothing is converted."""
        raise UnsupportedError(NO_CONVERSION)
