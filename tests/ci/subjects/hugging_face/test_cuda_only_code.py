"""Code that insists on CUDA packages: what is offered for the length of an import, and what is left as it is."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError
from ci.subjects.hugging_face.cuda_only_code import (
    DEVICE_CHECK,
    OWN_PACKAGE,
    PACKAGES,
    _offered_packages,
    find_missing_package,
    import_adapted,
    list_stand_ins,
)
from ci.subjects.hugging_face.kernels import causal_conv1d_fn, selective_scan_fn
from ci.subjects.hugging_face.model_code import load_model_code
from tests.ci.subjects.own_code import save_code, save_config

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from somewhere.else_entirely.sizes import SIZE

try:
    from fla.modules import ShortConvolution
    from fla.utils import tensor_cache
except ImportError:
    raise ImportError("please install fla")


def run(device):
    assert SIZE == 3
    assert "cuda" in device, "only on CUDA"
    return device


class Block:
    def __init__(self):
        ShortConvolution(hidden_size=3)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of two files, imported as the worker does."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "sizes.py").write_text("SIZE = 3\n")
    (tmp_path / "package" / "modeling.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("package")
    yield tmp_path / "package" / "modeling.py"
    for name in [name for name in sys.modules if name.partition(".")[0] == "package"]:
        del sys.modules[name]


def test_missing_packages_are_there_during_the_import_alone(code: Path) -> None:
    module, stand_ins = import_adapted("package.modeling", code)
    assert stand_ins == ("causal_conv1d_fn", "selective_scan_fn", "tensor_cache", DEVICE_CHECK)
    assert module.selective_scan_fn is selective_scan_fn
    assert module.causal_conv1d_fn is causal_conv1d_fn
    assert not [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    assert not [*code.parent.glob("__pycache__/modeling*")]


def test_only_the_check_for_a_device_is_left_out(code: Path) -> None:
    module, _ = import_adapted("package.modeling", code)
    assert module.run("cpu") == "cpu"
    module.SIZE = 4  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        module.run("cpu")


def test_what_has_no_stand_in_fails_by_name(code: Path) -> None:
    module, _ = import_adapted("package.modeling", code)
    with pytest.raises(NotImplementedError, match="ShortConvolution is not installed"):
        module.Block()
    with pytest.raises(NotImplementedError, match="mamba_chunk_scan_combined"):
        module.mamba_chunk_scan_combined()


def test_a_file_that_fails_otherwise_is_not_left_half_imported(code: Path) -> None:
    code.write_text(CODE + "\nraise ValueError('no')\n")
    with pytest.raises(ValueError, match="no"):
        import_adapted("package.modeling", code)
    assert "package.modeling" not in sys.modules


@pytest.mark.parametrize("missing", [*PACKAGES, OWN_PACKAGE, "numpy_of_no_one"])
def test_what_can_be_offered_is_known_by_name(missing: str) -> None:
    problem = ModuleNotFoundError("no", name=f"{missing}.part")
    outer = ImportError("please install it")
    outer.__context__ = problem
    expected = missing if missing in (*PACKAGES, OWN_PACKAGE) else ""
    assert find_missing_package(problem) == find_missing_package(outer) == expected


def test_an_installed_package_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PathFinder, "find_spec", lambda _: object())
    with _offered_packages():
        assert "causal_conv1d" not in sys.modules


def test_code_with_its_own_config_class_loads_and_says_what_stands_in(tmp_path: Path) -> None:
    code = save_code(tmp_path / "code")
    own = code / "modeling_tiny.py"
    own.write_text(
        f"from {OWN_PACKAGE}.tiny.configuration_tiny import TinyConfig as _\n"
        "from mamba_ssm.ops.selective_scan_interface import selective_scan_fn\n" + own.read_text()
    )
    loaded = load_model_code(save_config(tmp_path / "model"), code)
    assert "selective_scan_fn" in loaded.stand_ins
    assert "selective_scan_fn" in list_stand_ins(sys.modules[loaded.model_class.__module__])
    own.write_text(own.read_text().replace("configuration_tiny", "configuration_other"))
    with pytest.raises(SubjectError, match="cannot be imported"):
        load_model_code(tmp_path / "model", code)
