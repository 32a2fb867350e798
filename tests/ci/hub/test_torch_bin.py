"""Repositories without safetensors: the same checkpoint from `.bin` files, and no code of theirs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.errors import InfrastructureError, RequestError
from ci.hub.fetch import fetch
from ci.hub.header import parse_header
from ci.hub.manifest import read_manifest
from ci.hub.store import Store
from ci.hub.torch_bin import DTYPES, TorchBinFiles
from tests.ci.hub.samples import (
    CONFIG,
    MODEL,
    REQUEST,
    first_layers,
    make_repository,
    read_tree,
    stored_tensors,
    upstream_tensors,
    write_json,
)
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer


def to_torch_bin(repository: Path, *, files: int = 3) -> None:
    """Replace a repository's safetensors files by `.bin` files of the same tensors."""
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(files)]
    weight_map = {}
    for number, path in enumerate(sorted(repository.glob("*.safetensors"))):
        content = path.read_bytes()
        header = parse_header(content, len(content), what=path.name)
        for tensor in header.tensors:
            data = bytearray(content[header.data_start + tensor.begin : header.data_start + tensor.end])
            states[number % files][tensor.name] = torch.frombuffer(data, dtype=torch.bfloat16).reshape(tensor.shape)
            weight_map[tensor.name] = f"pytorch_model-{number % files + 1:05d}-of-{files:05d}.bin"
        path.unlink()
    (repository / "model.safetensors.index.json").unlink(missing_ok=True)
    if files == 1:
        torch.save(states[0], repository / "pytorch_model.bin")
        return
    write_json(repository / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    for number, state in enumerate(states):
        torch.save(state, repository / f"pytorch_model-{number + 1:05d}-of-{files:05d}.bin")


@pytest.fixture
def wanted(hub: HubServer, repository: Path) -> dict[str, bytes]:
    """What two layers of the model are; its files are pickled now, and served."""
    tensors = first_layers(repository, 2)
    to_torch_bin(repository)
    hub.add(MODEL, repository)
    return tensors


def test_the_same_checkpoint(settings: Settings, wanted: dict[str, bytes], repository: Path) -> None:
    checkpoint = fetch(REQUEST, settings)
    path = Path(checkpoint.path)
    assert stored_tensors(checkpoint) == wanted
    assert "model.safetensors" in read_tree(path)
    assert not [name for name in read_tree(path) if name.endswith(".bin")]
    (note,) = checkpoint.notes
    assert note.startswith("the repository has no safetensors files, so whole .bin files (with auto all of them) were")
    assert checkpoint.bytes_fetched > checkpoint.bytes_kept
    assert [entry.state for entry in Store(settings.cache).verify()] == ["complete"]
    manifest, _ = read_manifest(path)
    for name, tensor in manifest.tensors.items():
        assert tensor.sha256 == hashlib.sha256(wanted[name]).hexdigest()
        assert (tensor.begin, tensor.end) == (None, None)
    for name, source in manifest.sources.items():
        assert source.sha256 == hashlib.sha256((repository / name).read_bytes()).hexdigest()


def test_only_touched_files_are_moved(hub: HubServer, settings: Settings, wanted: dict[str, bytes]) -> None:
    fetch(replace(REQUEST, layers=1), settings)
    assert {request.file for request in hub.requests("cdn")} == {
        "pytorch_model-00001-of-00003.bin",
        "pytorch_model-00003-of-00003.bin",
    }


def test_auto(hub: HubServer, settings: Settings, wanted: dict[str, bytes], repository: Path) -> None:
    write_json(repository / "config.json", {**CONFIG, "layer_types": ["s", "s", "f", "s", "s"]})
    hub.add(MODEL, repository)
    checkpoint = fetch(replace(REQUEST, layers="auto"), settings)
    assert (checkpoint.layers, checkpoint.kinds_missed) == (3, ('layer 2: layer_types="f"',))
    again = fetch(replace(REQUEST, layers="auto"), settings)
    assert (again.cache, again.path) == ("hit", checkpoint.path)
    assert [entry.state for entry in Store(settings.cache).list_entries()] == ["complete"]


def test_a_single_file(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "single", shards=1)
    tensors = first_layers(repository, 2)
    to_torch_bin(repository, files=1)
    hub.add(MODEL, repository)
    assert stored_tensors(fetch(REQUEST, settings)) == tensors


def test_safetensors_win_where_both_are(hub: HubServer, settings: Settings, repository: Path) -> None:
    torch.save({"x": torch.zeros(1)}, repository / "pytorch_model.bin")
    hub.add(MODEL, repository)
    assert fetch(REQUEST, settings).notes == ()


def test_interrupted_downloads_are_gone_on_from(
    hub: HubServer, settings: Settings, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.hub.transfer.PIECE_SIZE", 500)
    monkeypatch.setattr("ci.hub.transfer.LARGEST_REQUEST", 500)
    hub.faults.inject(Fault("drop", origin="cdn", skip=8, times=None))
    with pytest.raises(InfrastructureError):
        fetch(REQUEST, settings)
    hub.faults.clear()
    hub.log.clear()
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == wanted
    whole = sum(entry.size for entry in read_manifest(Path(checkpoint.path))[0].sources.values())
    assert 0 < sum(request.sent for request in hub.requests("cdn")) < whole


class Evil:
    """Runs code when it is unpickled by somebody who lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_pickles_with_code_are_refused_and_not_run(
    hub: HubServer, settings: Settings, wanted: dict[str, bytes], repository: Path, tmp_path: Path, save: Any
) -> None:
    trace = tmp_path / "was-here"
    save({"model.norm.weight": Evil(trace)}, repository / "pytorch_model-00001-of-00003.bin")
    hub.add(MODEL, repository)
    with pytest.raises(
        InfrastructureError, match=r"00001-of-00003\.bin: cannot be loaded with weights_only=True"
    ) as refused:
        fetch(REQUEST, settings)
    assert "\n" not in str(refused.value)
    assert not trace.exists()
    assert "complete" not in [entry.state for entry in Store(settings.cache).list_entries()]


def test_corrupted_on_the_way(hub: HubServer, settings: Settings, wanted: dict[str, bytes]) -> None:
    hub.faults.inject(Fault("corrupt", amount=100, file="*.bin", origin="cdn"))
    assert stored_tensors(fetch(REQUEST, replace(settings, cache=settings.cache / "other"))) == wanted
    hub.faults.inject(Fault("corrupt", amount=100, file="*.bin", origin="cdn", times=None))
    with pytest.raises(InfrastructureError, match=r"\.bin: content does not match its digest"):
        fetch(REQUEST, settings)
    hub.faults.clear()
    assert stored_tensors(fetch(REQUEST, settings)) == wanted, "the bad parts were gone on from"


def test_a_file_without_what_the_index_says(
    hub: HubServer, settings: Settings, wanted: dict[str, bytes], repository: Path
) -> None:
    torch.save({"other": torch.zeros(1)}, repository / "pytorch_model-00001-of-00003.bin")
    hub.add(MODEL, repository)
    with pytest.raises(InfrastructureError, match=r"00001-of-00003\.bin: lacks tensor 'model"):
        fetch(REQUEST, settings)


def test_a_missing_layer_is_refused(
    hub: HubServer, settings: Settings, wanted: dict[str, bytes], repository: Path
) -> None:
    write_json(repository / "config.json", {**CONFIG, "num_hidden_layers": 7})
    hub.add(MODEL, repository)
    with pytest.raises(RequestError, match="says 7 layers"):
        fetch(REQUEST, settings)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ([torch.zeros(1)], "something other than named tensors"),
        ({"a": "text"}, "something other than named tensors"),
        ({1: torch.zeros(1)}, "something other than named tensors"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "something other than named tensors"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "dtype complex128, which safetensors does not support"),
    ],
)
def test_files_of_something_else(tmp_path: Path, state: object, problem: str) -> None:
    torch.save(state, tmp_path / "x.bin")
    with pytest.raises(InfrastructureError, match=problem):
        TorchBinFiles({"x.bin": tmp_path / "x.bin"}).list_tensors()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no zip", b"\x80\x02]q\x00."])
def test_files_that_are_no_pickles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(InfrastructureError, match=r"x\.bin: "):
        TorchBinFiles({"x.bin": tmp_path / "x.bin"})


def test_files_from_before_zip_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    (file, tensor) = TorchBinFiles({"x.bin": tmp_path / "x.bin"}).list_tensors()["a"]
    assert (file, tensor.dtype, tensor.shape, tensor.size) == ("x.bin", "I64", (3,), 24)


def test_every_dtype_of_safetensors_that_torch_has() -> None:
    from safetensors.torch import _TYPES

    ours = {ours: getattr(torch, name) for name, ours in DTYPES.items()}
    assert {name: dtype for name, dtype in _TYPES.items() if name != "F4"}.items() <= ours.items()


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(12, dtype=torch.int16).reshape(3, 4)
    torch.save({"t": whole.t(), "row": whole[1]}, tmp_path / "x.bin")
    from ci.hub.download_plan import TensorSource, plan_output_files

    files = TorchBinFiles({"x.bin": tmp_path / "x.bin"})
    sources = [TensorSource(file, tensor, tensor.begin, tensor.end) for file, tensor in files.list_tensors().values()]
    digests = files.write_files(plan_output_files(sources, max_file_size=10**9), tmp_path, lambda *_: None)
    written = upstream_tensors(tmp_path)
    assert written["t"] == whole.t().contiguous().numpy().tobytes()
    assert written["row"] == whole[1].numpy().tobytes()
    assert digests["model.safetensors"].tensors["row"] == hashlib.sha256(written["row"]).hexdigest()


def test_config_alone_decides_nothing_is_loaded(
    hub: HubServer, settings: Settings, wanted: dict[str, bytes], repository: Path
) -> None:
    """An impossible request is refused before gigabytes are moved."""
    with pytest.raises(RequestError, match="9 layers asked for"):
        fetch(replace(REQUEST, layers=9), settings)
    assert hub.requests("cdn") == []
    assert json.loads((repository / "config.json").read_text())["num_hidden_layers"] == 5
