"""The generated models are loadable as they are, pure functions of their recipes, and not degenerate."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from ci.subjects.hugging_face.loading import choose_auto_class
from tests.standin.models import build, build_full_size, write_once
from tests.standin.recipes import CONFIGS, DENSE, RECIPES
from tests.standin.weights import make_tensor, tensor_shapes

if TYPE_CHECKING:
    from pathlib import Path

TEXT = torch.arange(2 * 64).reshape(2, 64) * 7 % 331


def load(directory: Path) -> tuple[Any, dict[str, Any]]:
    auto = choose_auto_class(AutoConfig.from_pretrained(directory))
    loaded = auto.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    return model.eval(), info


@pytest.fixture(scope="module", params=RECIPES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    torch.set_num_threads(1)
    return request.param, build(RECIPES[request.param], tmp_path_factory.mktemp("repo") / "model")


def test_loads_without_missing_or_unexpected_keys(built: tuple[str, Path]) -> None:
    model, info = load(built[1])
    assert {key: value for key, value in info.items() if value} == {}
    with torch.no_grad():
        output = model(TEXT, output_hidden_states=True)
    assert torch.isfinite(output.logits).all()
    assert 0.2 < output.logits.std() < 20
    for before, after in zip(output.hidden_states, output.hidden_states[1:], strict=False):
        assert ((after - before).std() / before.std()) > 0.1, "every block changes its input"
    assert output.logits.std(dim=1).min() > 0.05, "logits depend on the position"


def test_config_has_upstreams_keys(built: tuple[str, Path]) -> None:
    recipe = RECIPES[built[0]]
    upstream = json.loads((CONFIGS / f"{recipe.upstream}.json").read_text())
    ours = json.loads((built[1] / "config.json").read_text())
    if built[0].startswith("stand-in/"):
        assert set(upstream) <= set(ours)
    else:
        assert list(upstream) == list(ours)
    text = ours.get("text_config", ours)
    assert all(text["vocab_size"] % multiple for multiple in (2, 64))
    assert text["num_key_value_heads"] > 1
    assert text["num_hidden_layers"] >= 4


def test_shards_and_index_agree(built: tuple[str, Path]) -> None:
    recipe, directory = RECIPES[built[0]], built[1]
    if recipe.weights == "bin":
        index = json.loads((directory / "pytorch_model.bin.index.json").read_text())
        assert len(set(index["weight_map"].values())) == recipe.files
        return
    files = sorted(directory.glob("*.safetensors"))
    assert abs(len(files) - recipe.files) <= 1
    held: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            held |= dict.fromkeys(opened.keys(), file.name)
    assert set(held) == set(tensor_shapes(recipe.config))
    if len(files) > 1:
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == held
        assert index["metadata"]["total_size"] == sum(
            math.prod(s) * (4 if recipe.dtype == "float32" else 2) for s in tensor_shapes(recipe.config).values()
        )


def test_every_expert_is_chosen(tmp_path: Path) -> None:
    model, _ = load(build(RECIPES["mistralai/Mixtral-8x7B-v0.1"], tmp_path / "model"))
    with torch.no_grad():
        routed = model(TEXT, output_router_logits=True).router_logits
    for logits in routed:
        assert logits.topk(2).indices.unique().numel() == 8


@pytest.mark.parametrize("key", ["sliding_window", "rope_scaling", "head_dim"])
def test_the_unusual_matters(tmp_path: Path, key: str) -> None:
    """Dropping the setting changes the answer at the suite's sequence lengths: the fixtures can see that bug."""
    name = {"sliding_window": "mistralai/Mistral-7B-v0.1", "rope_scaling": "stand-in/llama-yarn"}.get(key)
    recipe = RECIPES[name or "stand-in/llama-head-dim"]
    directory = build(recipe, tmp_path / "model")
    with torch.no_grad():
        right = load(directory)[0](TEXT).logits
    config = json.loads((directory / "config.json").read_text())
    if key == "head_dim":
        assert config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]
        return
    (directory / "config.json").write_text(json.dumps({**config, key: None}))
    with torch.no_grad():
        wrong = load(directory)[0](TEXT).logits
    assert (wrong - right).abs().max() > 0.1


def test_a_pure_function_of_name_and_seed(tmp_path: Path) -> None:
    recipe = RECIPES["Qwen/Qwen2.5-7B"]
    first, again, other = (build(recipe, tmp_path / n, seed) for n, seed in (("a", 0), ("b", 0), ("c", 1)))
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes()
    weights = min(first.glob("*.safetensors"))
    assert weights.read_bytes() != (other / weights.name).read_bytes()


def test_values_follow_the_recipe() -> None:
    assert make_tensor("x.weight", (400, 300), 0).std().item() == pytest.approx(300**-0.5, rel=0.05)
    norm = make_tensor("model.norm.weight", (5000,), 0)
    assert (norm.mean().item(), norm.std().item()) == pytest.approx((1, 0.3), rel=0.05)
    assert make_tensor("q_proj.bias", (5000,), 0).std().item() == pytest.approx(0.3, rel=0.05)
    assert make_tensor("model.embed_tokens.weight", (100, 90), 0).std().item() == pytest.approx(1, rel=0.05)


def test_byte_level_tokenizer(tmp_path: Path) -> None:
    directory = build(RECIPES["stand-in/llama"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer("Grüße, world").input_ids
    assert max(ids) < DENSE["bos_token_id"]
    assert tokenizer.decode(ids) == "Grüße, world"


def test_full_size_names_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The production shapes without their bytes: layer, embedding and total sizes are the published ones."""
    import tests.standin.models as models

    written: dict[str, Any] = {}

    def keep(directory: Path, shapes: Any, read: Any, **settings: Any) -> None:
        written.update(shapes=shapes, **settings)

    monkeypatch.setattr(models, "write_checkpoint", keep)
    build_full_size("Mixtral-8x7B-v0.1", tmp_path / "model", layers=32)
    assert 2 * sum(math.prod(shape) for shape in written["shapes"].values()) == 93_405_585_408
    build_full_size("Mixtral-8x7B-v0.1", tmp_path / "two")
    assert 2 * sum(math.prod(shape) for shape in written["shapes"].values()) == 6_329_376_768
    assert json.loads((tmp_path / "two" / "config.json").read_text())["num_hidden_layers"] == 2


def test_cache_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        directory.mkdir()
        (directory / "half").touch()
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        write_once("model", fail, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    calls: list[Path] = []

    def write(directory: Path) -> None:
        calls.append(directory)
        directory.mkdir()

    assert write_once("model", write, tmp_path) == write_once("model", write, tmp_path) == tmp_path / "model"
    assert len(calls) == 1
