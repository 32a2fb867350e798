"""Right exports of a checkpoint in several forms: the same model, written otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from ci.companion_files import GENERATION_CONFIG, TOKENIZER_FILES, list_files
from ci.errors import UnsupportedError
from ci.subjects.base import ConvertRequest, ExportRequest, Subject
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.equivalence.served_models import edit_tensors, find_format
from tests.standin.models import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.subjects.base import DType


@dataclass(frozen=True)
class Exporter:
    """Exports a checkpoint of a model into a new directory. `real` is a subject in an interpreter of its own."""

    real: Subject | None = None
    reference: Subject = field(default_factory=ReferenceSubject)

    def export(self, form: str, model: str, original: Path, target: Path, dtype: DType) -> Path:
        """Write the export of one form. Raises UnsupportedError where the form does not have this model."""
        if form in WRITERS:
            WRITERS[form](original, target)
            return target
        subject = self.reference if form == "reference" else self.real
        checkpoint_format = find_format(model)
        if subject is None or checkpoint_format is None:
            raise UnsupportedError(f"{form} does not convert {model}")
        converted = target.with_name(f"{target.name}-converted")
        subject.convert(ConvertRequest(str(original), str(converted), checkpoint_format))
        subject.export(ExportRequest(str(converted), str(target), checkpoint_format, dtype=dtype))
        return target


def _save_with_transformers(original: Path, target: Path) -> None:
    """Load and save: config.json has every default and the keys of this transformers."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(original, dtype="auto").save_pretrained(target, max_shard_size="200KB")
    for name in (GENERATION_CONFIG, *list_files(original, TOKENIZER_FILES)):
        shutil.copy(original / name, target / name)


def _split_tensors(original: Path, target: Path) -> None:
    """Write the tensors in another order into three files with an index."""
    shutil.copytree(original, target)
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        part = {name: tensors[name] for name in sorted(tensors, reverse=True)[number::3]}
        save_file(part, target / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _widen_tensors(original: Path, target: Path) -> None:
    """Store float32: every value of a narrower dtype is one of float32 too."""
    shutil.copytree(original, target)
    edit_tensors(lambda tensors: tensors.update({n: t.to(torch.float32) for n, t in tensors.items()}), target)


def _drop_defaults(original: Path, target: Path) -> None:
    """Leave out the keys of config.json that say what transformers would assume anyway."""
    from transformers import AutoConfig

    shutil.copytree(original, target)
    config = json.loads((target / "config.json").read_text())
    defaults = type(AutoConfig.from_pretrained(original))().to_dict()
    needed = {"model_type", "architectures", "torch_dtype", "dtype", "head_dim", *TOKEN_KEYS}
    kept = {k: v for k, v in config.items() if k in needed or k not in defaults or defaults[k] != v}
    write_json(target / "config.json", dict(sorted(kept.items(), reverse=True)))


TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "saved again by transformers": _save_with_transformers,
    "in three files": _split_tensors,
    "stored in float32": _widen_tensors,
    "without default keys": _drop_defaults,
}
FORMS = ("reference", *WRITERS, "fast_llm")
