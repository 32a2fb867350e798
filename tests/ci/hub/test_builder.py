"""What a built checkpoint consists of, fetched from the stand-in."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ci.hub.fetch import fetch
from ci.hub.header import parse_header
from ci.hub.manifest import MANIFEST, read_manifest
from ci.hub.remote import HubClient
from ci.hub.store import Store
from tests.ci.hub.samples import (
    CONFIG,
    MODEL,
    REQUEST,
    first_layers,
    make_repository,
    model_shapes,
    stored_tensors,
    upstream_tensors,
)

if TYPE_CHECKING:
    import pytest

    from ci.hub.repository import Repository
    from ci.settings import Settings
    from tests.standin.server import HubServer


def test_config_is_upstreams_text_but_for_the_depth(hub: HubServer, settings: Settings, repository: Path) -> None:
    text = '{\n\t"num_hidden_layers":5, "rms_norm_eps": 1E-5, "z": 0.10, "auto_map": {"AutoModel": "m.M"}, "a": [1.0]}'
    (repository / "config.json").write_text(text)
    hub.add(MODEL, repository)
    result = (Path(fetch(REQUEST, settings).path) / "config.json").read_text()
    assert result == text.replace('layers":5', 'layers":2')


def test_the_manifest_says_it_all(settings: Settings, commit: str, repository: Path) -> None:
    checkpoint = fetch(REQUEST, settings)
    path = Path(checkpoint.path)
    manifest, digest = read_manifest(path)
    assert digest == checkpoint.manifest_sha256
    assert set(manifest.files) == {entry.name for entry in path.iterdir()} - {MANIFEST}
    assert [entry.state for entry in Store(settings.cache).verify()] == ["complete"]
    assert set(manifest.tensors) == set(first_layers(repository, 2))
    for name, tensor in manifest.tensors.items():
        assert tensor.begin is not None
        content = (repository / tensor.source).read_bytes()[tensor.begin : tensor.end]
        assert content == upstream_tensors(repository)[name]
        assert (tensor.dtype, tensor.shape) == ("BF16", model_shapes()[name])
    weight_map = json.loads((repository / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(manifest.sources) == {weight_map[name] for name in manifest.tensors}


def test_several_files_with_an_index_when_large(
    settings: Settings, commit: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.hub.builder.MAX_FILE_SIZE", 600)
    checkpoint = fetch(REQUEST, settings)
    path = Path(checkpoint.path)
    assert not (path / "model.safetensors").exists()
    index = json.loads((path / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        content = (path / file).read_bytes()
        assert name in {tensor.name for tensor in parse_header(content, len(content), what=file).tensors}
    assert index["metadata"]["total_size"] == checkpoint.bytes_kept
    assert stored_tensors(checkpoint) == first_layers(repository, 2)


def test_layers_that_predict_further_tokens_go(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    extra = {"model.layers.5.eh_proj.weight": (8, 8), "mtp.0.w": (2,)}
    config = {**CONFIG, "model_type": "qwen3_next", "num_nextn_predict_layers": 1}
    repository = make_repository(tmp_path / "mtp", tensors={**model_shapes(), **extra}, config=config)
    hub.add(MODEL, repository)
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == first_layers(repository, 2)
    assert checkpoint.dropped == ("model.layers.5: 1 tensor", "mtp.0: 1 tensor")
    assert checkpoint.notes == (
        "tensors of multi-token prediction (MTP) modules were left out: model.layers.5: 1 tensor; mtp.0: 1 tensor",
    )
    assert read_manifest(Path(checkpoint.path))[0].dropped == checkpoint.dropped
    assert json.loads((Path(checkpoint.path) / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_python_files_stay_where_they_are(hub: HubServer, settings: Settings, commit: str) -> None:
    checkpoint = fetch(REQUEST, settings)
    assert not list(Path(checkpoint.path).rglob("*.py"))
    assert not [request for request in hub.log if (request.file or "").endswith(".py")]
    assert not read_manifest(Path(checkpoint.path))[0].remote_code


def test_small_files_are_on_their_way_together(
    settings: Settings, commit: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    read, together = HubClient.read_file, threading.Barrier(len(names), timeout=120)

    def wait_and_read(self: HubClient, repository: Repository, path: str, *, limit: int) -> bytes:
        if path in names:
            together.wait()
        return read(self, repository, path, limit=limit)

    monkeypatch.setattr(HubClient, "read_file", wait_and_read)
    checkpoint = fetch(REQUEST, settings)
    for name in names:
        assert (Path(checkpoint.path) / name).read_bytes() == (repository / name).read_bytes()


def test_older_tokenizer_files_where_nothing_else_holds_the_tokenizer(
    hub: HubServer, settings: Settings, repository: Path
) -> None:
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.model"):
        (repository / name).write_text("x")
    (repository / "tokenizer.json").unlink()
    hub.add(MODEL, repository)
    names = {path.name for path in Path(fetch(REQUEST, settings).path).iterdir()}
    assert names >= {
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.model",
    }
