"""A small correct training step with two documents, for tests of what explains wrong ones."""

from __future__ import annotations

import torch

from ci.equivalence.gradient_signature import StepFacts
from ci.layouts import LAYOUTS

GENERATOR = torch.Generator().manual_seed(0)
DOCUMENTS = [torch.randn(6, 4, generator=GENERATOR) for _ in range(2)]
GRADIENT = DOCUMENTS[0] + DOCUMENTS[1]


def facts(layout: str = "dp2") -> StepFacts:
    """Return the facts of a step of two documents with 40 and 20 counted tokens."""
    return StepFacts(LAYOUTS[layout], (40, 20), (4.0, 2.0), 1.0)
