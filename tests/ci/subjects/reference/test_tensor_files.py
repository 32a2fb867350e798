"""TensorFiles on disk: read in blocks, checked by name, written as a stream, complete or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import HubTestsError, InfrastructureError, RequestError, SubjectError, UnsupportedError
from ci.subjects.reference import tensor_files
from ci.subjects.reference.tensor_files import (
    PlannedTensor,
    check_tensors,
    create_directory,
    open_tensors,
    split_files,
    write_tensors,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def planned(name: str, tensor: Tensor, blocks: int = 1) -> PlannedTensor:
    return PlannedTensor(name, tuple(tensor.shape), lambda: tensor.chunk(blocks))


def test_blocks_are_bounded_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "BLOCK_ELEMENTS", 16)
    tensor = torch.arange(70.0).view(10, 7)
    save_file({"a": tensor}, tmp_path / "a.safetensors")
    with open_tensors(tmp_path, ["a.safetensors"]) as tensors:
        assert [block.shape for block in tensors.read_blocks("a")] == [(2, 7)] * 5
        assert torch.equal(torch.cat(list(tensors.read_blocks("a", 3, 8))), tensor[3:8])


def test_what_is_written_is_read_by_safetensors(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(5, 3), "b": torch.randn(4)}
    size = write_tensors(
        tmp_path / "x.safetensors", [planned("a", tensors["a"], 3), planned("b", tensors["b"])], "BF16"
    )
    loaded = load_file(tmp_path / "x.safetensors")
    assert size == (tmp_path / "x.safetensors").stat().st_size
    assert all(loaded[name].equal(tensors[name].bfloat16()) for name in tensors)


def test_a_value_beyond_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="tensor 'big' has values that float16 cannot"):
        write_tensors(tmp_path / "x.safetensors", [planned("big", torch.tensor([1e6]))], "F16")


def test_a_nan_is_named(tmp_path: Path) -> None:
    save_file({"gap": torch.tensor([1.0, float("nan")])}, tmp_path / "a.safetensors")
    with open_tensors(tmp_path, ["a.safetensors"]) as tensors, pytest.raises(SubjectError, match="'gap' contains NaN"):
        list(tensors.read_blocks("gap"))


def test_a_tensor_in_two_files_is_named(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"twice": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(SubjectError, match=r"'twice' is in a\.safetensors and b\.safetensors"):
        open_tensors(tmp_path, ["a.safetensors", "b.safetensors"])


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "a.bin", ""])
def test_file_names_are_not_trusted(tmp_path: Path, name: str) -> None:
    with pytest.raises(SubjectError, match="is not the name of a"):
        open_tensors(tmp_path, [name])


@pytest.mark.parametrize("content", [b"", b"\x00" * 9, b"\xff" * 64, None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(HubTestsError, match=r"a\.safetensors") as caught:
        open_tensors(tmp_path, ["a.safetensors"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": torch.zeros(2), "c": torch.zeros(1)}, "'b' is missing"),
        ({"a": torch.zeros(2), "b": torch.zeros(1), "c": torch.zeros(1)}, "'c' is unexpected"),
        ({"a": torch.zeros(3), "b": torch.zeros(1)}, r"'a' has shape \(3,\), expected \(2,\)"),
        ({"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(1)}, "'a': dtype I64"),
        ({"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(1)}, "'a': dtype F64"),
    ],
)
def test_the_first_wrong_tensor_is_named(tmp_path: Path, stored: dict[str, Tensor], message: str) -> None:
    save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(SubjectError, match=message):
        check_tensors(open_tensors(tmp_path, ["a.safetensors"]), {"a": (2,), "b": (1,)}, tmp_path)


def test_a_file_is_closed_by_the_tensor_that_fills_it() -> None:
    sizes = [3, 4, 1, 9, 2]
    files = split_files((planned(str(size), torch.zeros(size)) for size in sizes), 7)
    assert [[each.elements for each in file] for file in files] == [[3, 4], [1, 9], [2]]


def test_a_directory_is_there_when_all_went_well(tmp_path: Path) -> None:
    with create_directory(tmp_path / "deep" / "target") as part:
        (part / "file").write_text("x")
        assert not (tmp_path / "deep" / "target").exists()
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["target", "file"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SubjectError("no"), SubjectError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), InfrastructureError),
    ],
)
def test_nothing_is_left_of_a_directory_that_failed(
    tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    def fail() -> None:
        with create_directory(tmp_path / "target") as part:
            (part / "file").write_text("x")
            raise error

    with pytest.raises(expected):
        fail()
    assert not list(tmp_path.iterdir())


def test_an_existing_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="exists"), create_directory(tmp_path):
        pass
