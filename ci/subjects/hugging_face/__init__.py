"""Hugging Face's side: runs checkpoints through transformers and writes traces and gradients."""

from ci.subjects.hugging_face.runner import HuggingFace

__all__ = ["HuggingFace"]
