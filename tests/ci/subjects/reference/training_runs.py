"""Training requests over the small models of the reference's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ci.subjects.training import TrainRequest
from tests.ci.subjects.tiny import save_model

if TYPE_CHECKING:
    from pathlib import Path


def write_documents(path: Path) -> Path:
    """Write eight documents of two lengths."""
    ids = torch.randint(0, 211, (8, 17), generator=torch.Generator().manual_seed(3))
    save_file({"input_ids": ids, "lengths": torch.tensor([17, 9] * 4)}, path)
    return path


def make_request(root: Path, output: str, **changes: Any) -> TrainRequest:
    """Return a request of one step over a converted llama below `root`; the first call writes it."""
    from ci.subjects.base import ConvertRequest
    from ci.subjects.reference.subject import ReferenceSubject

    if not (root / "converted").exists():
        source = save_model("llama", root / "model", num_hidden_layers=2)
        ReferenceSubject().convert(ConvertRequest(str(source), str(root / "converted"), "llama"))
        write_documents(root / "documents")
    paths = (str(root / "converted"), str(root / "documents"), str(root / output))
    return TrainRequest(*paths, "llama", **changes)
