"""Which tiny models a bug can exist in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.mutation.tiny_models import TinyModel


def is_moe(model: TinyModel) -> bool:
    """Return whether the model is a mixture of experts."""
    return model.model_type == "mixtral"


def is_dense(model: TinyModel) -> bool:
    """Return whether each layer has one MLP."""
    return not is_moe(model)


def has_all_biases(model: TinyModel) -> bool:
    """Return whether every linear layer has a bias."""
    return bool(model.config_changes.get("mlp_bias"))


def has_query_bias(model: TinyModel) -> bool:
    """Return whether queries, keys and values have a bias."""
    return bool(model.config_changes.get("attention_bias")) or model.model_type == "qwen2"


def has_square_output(model: TinyModel) -> bool:
    """Return whether the output projection of the attention is square."""
    return "head_dim" not in model.config_changes


def is_untied(model: TinyModel) -> bool:
    """Return whether the head has weights of its own."""
    return not model.config_changes.get("tie_word_embeddings")


def has_window(model: TinyModel) -> bool:
    """Return whether the attention has a sliding window."""
    return bool(model.config_changes.get("sliding_window"))


def has_no_window(model: TinyModel) -> bool:
    """Return whether the attention sees all earlier tokens."""
    return not has_window(model)


def has_rope_type(kind: str) -> Callable[[TinyModel], bool]:
    """Return a test for models with this RoPE scaling."""
    return lambda model: model.config_changes.get("rope_parameters", {}).get("rope_type") == kind


def is_named(*names: str) -> Callable[[TinyModel], bool]:
    """Return a test for the models with these names."""
    return lambda model: model.name in names
