# mypy: ignore-errors
# It is read by transformers alone, whose modules have no types.
"""The config of modelling code that travels with a generated model: it keeps the keys of config.json as they are."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class StandInConfig(PretrainedConfig):
    """Any config.json."""

    model_type = "standin"

    def __init__(self, **keys: Any) -> None:
        for name, value in keys.items():
            if name not in ("dtype", "torch_dtype"):
                setattr(self, name, value)
        super().__init__(**{name: keys[name] for name in SHARED if name in keys})

    def get_text_config(self, decoder: bool = False, encoder: bool = False) -> StandInConfig:
        return self


SHARED = ("architectures", "auto_map", "dtype", "torch_dtype", "tie_word_embeddings", "pad_token_id")
"""What transformers' own class reads."""
