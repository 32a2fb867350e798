"""Which specimens a bug exists in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.mutation.tiny_models import Specimen


def moe(specimen: Specimen) -> bool:
    """Mixtures of experts."""
    return specimen.model_type == "mixtral"


def dense(specimen: Specimen) -> bool:
    """Models with one MLP a layer."""
    return not moe(specimen)


def all_biases(specimen: Specimen) -> bool:
    """Every linear layer has a bias."""
    return bool(specimen.changes.get("mlp_bias"))


def query_bias(specimen: Specimen) -> bool:
    """Queries, keys and values have a bias."""
    return bool(specimen.changes.get("attention_bias")) or specimen.model_type == "qwen2"


def square_output(specimen: Specimen) -> bool:
    """The output projection is square."""
    return "head_dim" not in specimen.changes


def untied(specimen: Specimen) -> bool:
    """The head has weights of its own."""
    return not specimen.changes.get("tie_word_embeddings")


def windowed(specimen: Specimen) -> bool:
    """Attention slides."""
    return bool(specimen.changes.get("sliding_window"))


def rope_is(kind: str) -> Callable[[Specimen], bool]:
    """RoPE is scaled in this way."""
    return lambda specimen: specimen.changes.get("rope_parameters", {}).get("rope_type") == kind


def named(*names: str) -> Callable[[Specimen], bool]:
    """These specimens only."""
    return lambda specimen: specimen.name in names
