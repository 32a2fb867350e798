"""Imports modelling code that insists on CUDA packages, on a machine without them: causal_conv1d, mamba_ssm, fla.

Code that catches a failed import of its kernels is filled with stand-ins (`kernels`). Code that does not is read here,
with these packages offered for the length of the import, and with two changes of its syntax tree: an assertion about a
CUDA device is left out, and an absolute import of one of its own files becomes a relative one. The report says so.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from contextlib import contextmanager
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from ci.subjects.hugging_face.kernels import causal_conv1d_fn, kda, kda_gate, selective_scan_fn

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE_CHECK = "its check for a CUDA device"
"""What the report names where an assertion was left out."""


def _refuse(name: str) -> Any:
    """Return a function or class that can be imported, and fails by name where it runs."""

    class Missing(nn.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError(f"{name} is not installed here, and has no plain stand-in")

    return Missing


PLAIN: dict[str, dict[str, Any]] = {
    "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn},
    "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
    "fla.ops.kda": {"chunk_kda": kda, "fused_recurrent_kda": kda},
    "fla.ops.kda.gate": {"fused_kda_gate": kda_gate},
    "fla.utils": {"tensor_cache": lambda function: function},
}
"""What plain functions stand in for, by module."""
REFUSED: dict[str, tuple[str, ...]] = {
    "causal_conv1d": ("causal_conv1d_update",),
    "mamba_ssm.ops.triton.selective_state_update": ("selective_state_update",),
    "mamba_ssm.ops.triton.ssd_combined": ("mamba_chunk_scan_combined",),
    "fla.modules": ("FusedRMSNormGated", "ShortConvolution"),
    "fla.ops.utils.index": ("prepare_cu_seqlens_from_mask", "prepare_lens_from_mask"),
}
"""What can be imported and not run: other kinds of blocks, and generation token by token."""
PACKAGES = ("causal_conv1d", "mamba_ssm", "fla")
OWN_PACKAGE = "fast_llm_external_models"
"""The package of Fast-LLM's checkout whose folders hold modelling code."""


def find_missing_package(problem: BaseException) -> str:
    """Return what a failed import asked for that can be offered: a CUDA package, or the code's own; else ""."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, ModuleNotFoundError) and seen.name:
            root = seen.name.partition(".")[0]
            if root in (*PACKAGES, OWN_PACKAGE):
                return root
        seen = seen.__cause__ or seen.__context__
    return ""


def import_adapted(name: str, file: Path) -> tuple[ModuleType, tuple[str, ...]]:
    """Import a file as module `name`, as above; return it and the names of what stands in. Raises what the code does.

    `name` must be in a package that is imported already.
    """
    loader = _AdaptingLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    if spec is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    with _offered_packages():
        sys.modules[name] = module
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module, (*list_stand_ins(module), *((DEVICE_CHECK,) if loader.left_out else ()))


def list_stand_ins(module: ModuleType) -> tuple[str, ...]:
    """Return the names of a module that hold a plain function of a CUDA package."""
    plain = {name: function for names in PLAIN.values() for name, function in names.items()}
    return tuple(name for name, function in plain.items() if vars(module).get(name) is function)


@contextmanager
def _offered_packages() -> Iterator[None]:
    """Make the packages that are not installed importable for the length of the context."""
    missing = [package for package in PACKAGES if package not in sys.modules and not PathFinder.find_spec(package)]
    modules = {name: module for name, module in _make_modules().items() if name.partition(".")[0] in missing}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def _make_modules() -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {}
    for name in (*PLAIN, *REFUSED):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            if path not in modules:
                modules[path] = ModuleType(path)
                modules[path].__path__ = []
        vars(modules[name]).update(PLAIN.get(name, {}))
        vars(modules[name]).update({refused: _refuse(refused) for refused in REFUSED.get(name, ())})
    return modules


class _AdaptingLoader(SourceFileLoader):
    """Compiles a file with the two changes, and leaves no compiled file behind."""

    left_out = False

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        adapter = _Adapter(Path(path).parent)
        adapted = ast.fix_missing_locations(adapter.visit(tree))
        self.left_out = adapter.left_out
        return compile(adapted, path, "exec", dont_inherit=True)


class _Adapter(ast.NodeTransformer):
    def __init__(self, directory: Path) -> None:
        self.directory, self.left_out = directory, False

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        """Leave out an assertion that compares with the name of the CUDA device."""
        constants = (part.value for part in ast.walk(node.test) if isinstance(part, ast.Constant))
        if "cuda" not in constants:
            return node
        self.left_out = True
        return ast.copy_location(ast.Pass(), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        """Import a file of the directory from there, whatever package it is said to be in."""
        package, _, module = (node.module or "").rpartition(".")
        if node.level or not package or not (self.directory / f"{module}.py").is_file():
            return node
        return ast.copy_location(ast.ImportFrom(module, node.names, 1), node)
