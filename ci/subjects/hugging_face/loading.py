"""Builds and loads the model of a checkpoint: transformers' own classes, or the code that came with it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]

from ci.errors import SubjectError
from ci.subjects.forward import DTYPES
from ci.subjects.hugging_face.cast_model import has_same_parts, move_weights
from ci.subjects.hugging_face.model_code import ModelCode, compare_with_stored, load_model_code, overrides_loading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.base import TraceRequest


@dataclass(frozen=True)
class ModelLoader:
    """Builds and loads models. `code` is a directory with the code of models that transformers does not have."""

    code: Path | None = None

    def load_code(self, checkpoint: str) -> ModelCode | None:
        """Return the classes of a model that brings its own code, None where transformers has it."""
        return load_model_code(Path(checkpoint), self.code) if self.code else None

    def build_without_weights(self, checkpoint: str) -> Any:
        """Build the model on torch's meta device, which holds shapes alone."""
        with torch.device("meta"):
            return self.build(checkpoint)

    def read_config(self, checkpoint: str) -> Any:
        """Return the configuration object of a checkpoint."""
        from transformers import AutoConfig

        if code := self.load_code(checkpoint):
            return code.config_class.from_pretrained(checkpoint, local_files_only=True)
        # Not left out: transformers would ask on the terminal whether the directory's own code may run.
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)

    def build(self, checkpoint: str, **settings: Any) -> Any:
        """Build the model of a checkpoint's config.json with weights of no meaning."""
        config = self.read_config(checkpoint)
        if code := self.load_code(checkpoint):
            return code.model_class._from_config(config, **settings)
        return choose_auto_class(config).from_config(config, trust_remote_code=False, **settings)

    def cast(self, model: Any, request: TraceRequest) -> Any:
        """Make the model of the request's dtype from a loaded one; None where transformers builds another one."""
        with silence_loading(), init_empty_weights(include_buffers=False):
            new = self.build(request.checkpoint, dtype=DTYPES[request.dtype], attn_implementation="eager")
        if not has_same_parts(model, new):
            return None
        move_weights(model, new, request.dtype)
        return new.eval()

    def load(self, request: TraceRequest) -> Any:
        """Load a checkpoint in the request's dtype onto its device. Raises SubjectError where it does not fit."""
        code = self.load_code(request.checkpoint)
        settings: dict[str, Any] = {
            "dtype": DTYPES[request.dtype],
            "attn_implementation": "eager",
            "local_files_only": True,
            "ignore_mismatched_sizes": True,  # the loading info then names them
            "device_map": None if request.device == "cpu" else {"": request.device},  # load directly onto the device
        }
        with silence_loading():
            if code and overrides_loading(code.model_class):
                model = code.model_class.from_pretrained(request.checkpoint, **settings)
                info = compare_with_stored(model, Path(request.checkpoint))
            else:
                auto = code.model_class if code else choose_auto_class(self.read_config(request.checkpoint))
                settings |= {} if code else {"trust_remote_code": False}
                model, info = auto.from_pretrained(request.checkpoint, output_loading_info=True, **settings)
        problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
        if problems:
            raise SubjectError(f"{request.checkpoint} does not load into {type(model).__name__} exactly: {problems}")
        return model


def choose_auto_class(config: Any) -> Any:
    """Return transformers' class that builds the model of a configuration, with its vision tower if it has one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForCausalLM if getattr(config, "vision_config", None) is None else AutoModelForImageTextToText


@contextmanager
def silence_loading() -> Iterator[None]:
    """Switch the progress bar and the loading report off: the loading info is checked here."""
    from transformers.utils import logging

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
