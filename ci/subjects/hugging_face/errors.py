"""Errors of transformers as errors of one line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ci.errors import HubTestsError, InfrastructureError, SubjectError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translate_errors(checkpoint: str, what: str) -> Iterator[None]:
    """Turn an exception of transformers into an error of one line."""
    try:
        yield
    except HubTestsError:
        raise
    except torch.cuda.OutOfMemoryError as problem:
        raise InfrastructureError(
            f"Hugging Face, {checkpoint}: out of memory on the device; reduce batch_size, sequence_length or layers "
            f"({first_line(problem)})"
        ) from problem
    except Exception as problem:
        reason = f"{type(problem).__name__}: {first_line(problem)}"
        raise SubjectError(f"Hugging Face, {checkpoint} {what}: {reason}") from problem


def first_line(problem: BaseException) -> str:
    """Return an exception's message in one line of at most 300 characters."""
    return " ".join(str(problem).split())[:300]
