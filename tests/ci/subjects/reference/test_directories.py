"""The layouts of checkpoint directories: shards, several files, and tensors that are ignored or refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from ci.errors import UnsupportedError
from ci.subjects.reference import directories
from tests.ci.subjects.reference.cases import convert_request, model
from tests.ci.subjects.reference.test_convert import tensors
from tests.ci.subjects.reference.test_subject import NAN, SUBJECT, edit_metadata, export, merge, read_json, rewritten

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ci.subjects.reference.conftest import ModelFactory


def test_large_exports_are_sharded(factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "SHARD_BYTES", 10**6)
    back = export(factory.converted("mixtral"), tmp_path / "back", "mixtral")
    index = read_json(back / "model.safetensors.index.json")
    files = sorted(path.name for path in back.glob("model-*.safetensors"))
    assert len(files) > 2
    assert files == sorted({*index["weight_map"].values()})
    assert tensors(back).keys() == index["weight_map"].keys()
    assert not any(AutoModelForCausalLM.from_pretrained(back, output_loading_info=True)[1].values())
    again = tmp_path / "again"
    SUBJECT.convert(convert_request(back, again, "mixtral"))
    assert all(t.equal(tensors(factory.converted("mixtral"))[name]) for name, t in tensors(again).items())


def test_large_conversions_are_spread_over_files(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "FILE_ELEMENTS", 10**5)
    SUBJECT.convert(convert_request(factory.source("qwen2"), tmp_path / "target", "qwen2"))
    assert len(list((tmp_path / "target").glob("model_*.safetensors"))) > 2
    back = export(tmp_path / "target", tmp_path / "back", "qwen2")
    assert all(t.equal(tensors(factory.source("qwen2"))[name]) for name, t in tensors(back).items())


def test_optimizer_state_is_let_be(factory: ModelFactory, tmp_path: Path) -> None:
    source, shard = tmp_path / "fast_llm", "decoder.0.norm_1.weight/exp_avgs"
    shutil.copytree(factory.converted("llama"), source)
    rewritten(lambda content: content.update({shard: NAN}))(source)
    edit_metadata(source, lambda tree: tree["metadata"]["state_index"].update({shard: "model_0.safetensors"}))
    assert tensors(export(source, tmp_path / "back", "llama")).keys() == tensors(factory.source("llama")).keys()


@pytest.mark.parametrize("equal", [True, False])
def test_a_stored_head_of_tied_embeddings_must_be_the_embeddings(tmp_path: Path, equal: bool) -> None:
    source = model("llama-tied", tmp_path / "hf")
    merge(source)
    rewritten(lambda content: content.update({"lm_head.weight": content["model.embed_tokens.weight"] + (not equal)}))(
        source
    )
    request = convert_request(source, tmp_path / "target", "llama")
    if equal:
        assert SUBJECT.convert(request).files
    else:
        with pytest.raises(UnsupportedError, match=r"tie_word_embeddings is true, but 'lm_head\.weight' differs"):
            SUBJECT.convert(request)


def test_saved_rotary_buffers_are_let_be(tmp_path: Path) -> None:
    source = model("llama", tmp_path / "hf")
    merge(source)
    rewritten(lambda content: content.update({"model.layers.2.self_attn.rotary_emb.inv_freq": torch.ones(8)}))(source)
    assert SUBJECT.convert(convert_request(source, tmp_path / "target", "llama")).files
