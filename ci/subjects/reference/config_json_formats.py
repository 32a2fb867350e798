"""Reads and writes config.json of every checkpoint format of the reference: one place says which module has which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ci.errors import UnsupportedError
from ci.subjects.reference.config_json import DTYPE_KEYS, IGNORED_KEYS, NEUTRAL_VALUES, read_config
from ci.subjects.reference.config_json_apriel2 import NAME as APRIEL2
from ci.subjects.reference.config_json_apriel2 import read_apriel2, write_apriel2
from ci.subjects.reference.config_json_apriel_hybrid import NAME as APRIEL_HYBRID
from ci.subjects.reference.config_json_apriel_hybrid import read_apriel_hybrid, write_apriel_hybrid
from ci.subjects.reference.config_json_gemma4 import NAME as GEMMA4
from ci.subjects.reference.config_json_gemma4 import NOT_TEXT, read_gemma4, write_gemma4
from ci.subjects.reference.config_json_llava import NAME as LLAVA
from ci.subjects.reference.config_json_llava import read_llava, write_llava
from ci.subjects.reference.config_json_write import write_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.reference.config import Architecture


READERS: Final = {GEMMA4: read_gemma4, APRIEL2: read_apriel2, LLAVA: read_llava, APRIEL_HYBRID: read_apriel_hybrid}
WRITERS: Final = {GEMMA4: write_gemma4, APRIEL2: write_apriel2, LLAVA: write_llava, APRIEL_HYBRID: write_apriel_hybrid}
"""The formats whose keys are not Llama's."""


def read_any_config(config: Mapping[str, Any], checkpoint_format: str, *, where: str = "config.json") -> Architecture:
    """Read a config.json. Raises SubjectError for a malformed file, UnsupportedError for an unknown feature."""
    if checkpoint_format in READERS:
        return READERS[checkpoint_format](config, where=where)
    return read_config(config, checkpoint_format, where=where)


def write_any_config(
    architecture: Architecture, checkpoint_format: str, dtype: str, original: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config.json of `architecture`. Raises UnsupportedError where the format cannot express it.

    `original` is the config.json that the checkpoint was converted from ({} where unknown): keys without effect are
    copied from it.
    """
    if checkpoint_format not in WRITERS:
        return write_config(architecture, checkpoint_format, dtype, original)
    kept = {*IGNORED_KEYS, *NEUTRAL_VALUES, *NOT_TEXT, "vocab_size_per_layer_input"} - {*DTYPE_KEYS}
    copied = {key: value for key, value in original.items() if key in kept}
    key = "torch_dtype" if "torch_dtype" in original else "dtype"
    written = {**copied, **WRITERS[checkpoint_format](architecture, original), key: dtype}
    if READERS[checkpoint_format](written, where="exported config.json") != architecture:
        raise UnsupportedError(f"a config.json of format {checkpoint_format!r} cannot express {architecture}"[:500])
    return dict(sorted(written.items()))
