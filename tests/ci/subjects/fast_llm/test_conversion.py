"""In which dtype an import is saved; against the real Fast-LLM where there is one."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from ci.subjects.base import ConvertRequest, ExportRequest
from ci.subjects.fast_llm import conversion
from ci.subjects.fast_llm.conversion import keep_bits, save_in_threads
from ci.subjects.memory import list_stored_dtypes
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.tiny import save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject

NARROW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("size", [1, 16, 100])
def test_weights_of_a_narrow_dtype_keep_their_bits(
    dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "PIECE", 16)
    weights = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype).float()
    weights[-1] = -0.0
    assert keep_bits(weights, dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("place", [0, 15, 16, 99])
def test_a_single_wider_weight_is_found_wherever_it_is(
    dtype: torch.dtype, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "PIECE", 16)
    weights = torch.randn(100, generator=torch.Generator().manual_seed(1)).to(dtype).float()
    weights.view(torch.int32)[place] |= 1
    assert not keep_bits(weights, dtype)


def test_what_float16_cannot_hold_is_found() -> None:
    assert not keep_bits(torch.tensor([1e30]), torch.float16)
    assert not keep_bits(torch.tensor([1e-30]), torch.float16)


def test_weights_that_are_narrow_already_keep_their_own_dtype_only() -> None:
    assert keep_bits(torch.ones(3, dtype=torch.bfloat16), torch.bfloat16)
    assert not keep_bits(torch.ones(3, dtype=torch.bfloat16), torch.float16)


def test_files_are_written_beside_each_other_and_are_there_after_the_block(tmp_path: Path) -> None:
    started = threading.Barrier(3)  # broken unless three writers meet
    original = safetensors.torch.save_file

    def wait_and_save(tensors: dict[str, torch.Tensor], filename: Path, metadata: dict[str, str]) -> None:
        started.wait(10)
        original(tensors, filename, metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", wait_and_save)
        with save_in_threads():
            for number in range(3):
                tensors = {"weights": torch.full((4,), float(number))}
                safetensors.torch.save_file(tensors=tensors, filename=tmp_path / str(number), metadata={"a": "b"})
        assert safetensors.torch.save_file is wait_and_save, "the library's own function is back"
    assert [load_file(tmp_path / str(number))["weights"][0].item() for number in range(3)] == [0, 1, 2]


def test_a_file_that_cannot_be_written_fails_the_block(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"No such file|os error 2"), save_in_threads():  # noqa: PT012
        safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "missing" / "file")
        safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "other")


def widen(source: Path, target: Path) -> Path:
    """Copy a model, its tensors as float32 of the same values."""
    shutil.copytree(source, target)
    tensors = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", torch.float16), ("mixtral", torch.bfloat16), ("qwen2", torch.bfloat16)]
)
def test_an_import_of_half_the_bytes_computes_the_same_bits(
    name: str, dtype: torch.dtype, fast_llm: Subject, tmp_path: Path
) -> None:
    narrow = save_model(name, tmp_path / "narrow", dtype=dtype)
    sources = {"narrow": narrow, "wide": widen(narrow, tmp_path / "wide")}
    inputs, traces, published = save_inputs(tmp_path / "inputs"), {}, str(dtype).removeprefix("torch.")
    for kind, source in sources.items():
        fast_llm.convert(ConvertRequest(str(source), str(tmp_path / f"{kind}.fast_llm"), name))
        for compute in ("float32", published):
            output = tmp_path / f"{kind}.{compute}"
            request = trace_request(tmp_path / f"{kind}.fast_llm", inputs, output, capture="all", dtype=compute)
            fast_llm.trace(request)
            traces[kind, compute] = TraceReader(output)
    stored = {kind: list_stored_dtypes(tmp_path / f"{kind}.fast_llm") for kind in sources}
    assert stored == {"narrow": {"BF16" if dtype == torch.bfloat16 else "F16"}, "wide": {"F32"}}
    for compute in ("float32", published):
        one, other = traces["narrow", compute], traces["wide", compute]
        assert list(one) == list(other)
        assert not [tensor for tensor in one if not torch.equal(one.tensor(tensor), other.tensor(tensor))]
    files = {kind: sorted(path.name for path in (tmp_path / f"{kind}.fast_llm").iterdir()) for kind in sources}
    assert files["narrow"] == files["wide"]
    export = ExportRequest(str(tmp_path / "narrow.fast_llm"), str(tmp_path / "back"), name, dtype=published)  # type: ignore[arg-type]
    fast_llm.export(export)
    before, after = load_file(narrow / "model.safetensors"), load_file(tmp_path / "back" / "model_0.safetensors")
    assert before.keys() == after.keys()
    assert not [key for key in before if not torch.equal(before[key], after[key])]


def test_an_import_of_several_dtypes_is_saved_in_float32(fast_llm: Subject, tmp_path: Path) -> None:
    source = save_model("mixtral", tmp_path / "source", dtype=torch.bfloat16)
    tensors = load_file(source / "model.safetensors")
    router = next(name for name in tensors if name.endswith("gate.weight"))
    tensors[router] = tensors[router].float() + 1e-5
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    fast_llm.convert(ConvertRequest(str(source), str(tmp_path / "converted"), "mixtral"))
    assert list_stored_dtypes(tmp_path / "converted") == {"F32"}
    wide = load_file(tmp_path / "converted" / "model_0.safetensors")
    assert any(torch.equal(tensor.flatten(), tensors[router].flatten()) for tensor in wide.values())
