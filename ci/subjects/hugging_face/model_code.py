"""Modelling code that travels with a model: its classes, loaded from a directory of Python files.

Whoever calls this runs that code: only a worker in its own sandbox may. transformers' own loader copies the files into
a cache, and takes a config that points to another repository; here `auto_map` must name files of the directory itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.hugging_face.code_source import IMPORT_FAILED, hash_code
from ci.subjects.hugging_face.cuda_only_code import find_missing_package, import_adapted
from ci.subjects.hugging_face.kernels import fill_missing_kernels, offer_flash_attention

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

REFERENCE = re.compile(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)")
MODEL_KEYS = ("AutoModelForCausalLM", "AutoModel")
"""The keys of `auto_map` that name the class with the output head; diffusion models have the second one only."""


@dataclass(frozen=True)
class ModelCode:
    """The classes of a model and its config. `stand_ins` are the kernels that plain functions stand in for."""

    config_class: Any
    model_class: Any
    stand_ins: tuple[str, ...]
    digest: str


def load_model_code(checkpoint: Path, directory: Path) -> ModelCode:
    """Import the classes that the checkpoint's `auto_map` names from the Python files of `directory`.

    Raises UnsupportedError for a checkpoint that names none, SubjectError where the code cannot be imported.
    """
    names = _read_auto_map(checkpoint)
    digest = hash_code(directory)
    package = _make_package(directory, f"hub_tests_model_code_{digest[:16]}")
    config_class = _import_class(package, names["AutoConfig"], directory)
    model_class = _import_class(package, names["model"], directory)
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(f"{package}.")]
    stand_ins = tuple(dict.fromkeys(name for module in modules for name in fill_missing_kernels(module)))
    return ModelCode(config_class, model_class, stand_ins or _filled.get(package, ()), digest)


def overrides_loading(model_class: Any) -> bool:
    """Return whether a class has a `from_pretrained` of its own, which may know no `output_loading_info`."""
    return "transformers" not in model_class.from_pretrained.__func__.__module__.partition(".")[0]


def compare_with_stored(model: Any, checkpoint: Path) -> dict[str, list[str]]:
    """Return what differs between a loaded model and its safetensors files, by kind; nothing where it is exact.

    A tensor that is tied to a stored one, or that the model casts, is not missing or different.
    """
    own = dict(model.state_dict(keep_vars=True))
    stored: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            stored |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    loaded = {id(own[name]) for name in own.keys() & stored.keys()}
    different = [name for name in own.keys() & stored.keys() if not _holds(own[name], stored[name])]
    return {
        "missing_keys": [name for name, tensor in own.items() if name not in stored and id(tensor) not in loaded],
        "unexpected_keys": [name for name in stored if name not in own],
        "different_keys": different,
    }


def _holds(own: Any, stored: Any) -> bool:
    return own.shape == stored.shape and torch.equal(own.detach().cpu(), stored.to(own.dtype))


def _read_auto_map(checkpoint: Path) -> dict[str, str]:
    try:
        config = json.loads((checkpoint / "config.json").read_bytes())
    except (OSError, ValueError) as problem:
        raise SubjectError(f"{checkpoint / 'config.json'}: cannot be read: {problem}") from None
    found: dict[str, Any] = config.get("auto_map") or {}
    model = next((found[key] for key in MODEL_KEYS if key in found), None)
    for name in (found.get("AutoConfig"), model):
        if not isinstance(name, str) or not REFERENCE.fullmatch(name):
            raise UnsupportedError(
                f"{checkpoint / 'config.json'}: auto_map names {name!r}: expected AutoConfig and one of "
                f"{', '.join(MODEL_KEYS)}, each as module.Class of this repository"
            )
    return {"AutoConfig": found["AutoConfig"], "model": str(model)}


_filled: dict[str, tuple[str, ...]] = {}
"""The stand-ins of each package, known when it was first imported."""


def _make_package(directory: Path, name: str) -> str:
    """Make the directory importable as a package of a name of ours: its files import each other relatively."""
    if name not in sys.modules:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(directory)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
        offer_flash_attention()
    return name


def _import_class(package: str, reference: str, directory: Path) -> Any:
    module, _, name = reference.partition(".")
    try:
        found = getattr(_import_module(f"{package}.{module}", directory / f"{module}.py"), name)
    except Exception as problem:  # whatever the code raises while it is imported is a finding about it
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        raise SubjectError(f"the model's code {directory / module}.py {IMPORT_FAILED}: {reason}") from problem
    filled = fill_missing_kernels(sys.modules[f"{package}.{module}"])
    _filled[package] = tuple(dict.fromkeys((*_filled.get(package, ()), *filled)))
    return found


def _import_module(name: str, file: Path) -> ModuleType:
    """Import a module of the code; where it insists on packages for CUDA that are missing, with stand-ins for them."""
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        if not find_missing_package(problem):
            raise
    module, stand_ins = import_adapted(name, file)
    package = name.rpartition(".")[0]
    _filled[package] = tuple(dict.fromkeys((*_filled.get(package, ()), *stand_ins)))
    return module
