"""FP8 weights with block scales are made plain by the published rule; anything else is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from ci.equivalence.dequantized_checkpoint import dequantize_blocks, dequantize_checkpoint
from ci.errors import QuantizedError
from tests.standin.models import repository

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SETTINGS = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 48]}
BLOCK = (32, 48)


def quantize(weight: Tensor, block: tuple[int, int] = BLOCK) -> tuple[Tensor, Tensor]:
    """Return codes and scales, block by block, in plain loops."""
    rows, columns = weight.shape
    scales = torch.zeros(-(-rows // block[0]), -(-columns // block[1]))
    codes = torch.zeros(weight.shape).to(torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scales[i, j] = weight[part].float().abs().max() / 448
            codes[part] = (weight[part].float() / scales[i, j]).to(torch.float8_e4m3fn)
    return codes, scales


def write(directory: Path, *, settings: Any = SETTINGS, keep_scales: bool = True) -> Path:
    """Write a llama whose linear layers hold codes and block scales."""
    source = repository("stand-in/llama")
    directory.mkdir()
    stored: dict[str, Tensor] = {}
    for file in source.glob("*.safetensors"):
        for name, weight in load_file(file).items():
            if not name.endswith("_proj.weight"):
                stored[name] = weight
                continue
            stored[name], scales = quantize(weight)
            stored |= {f"{name}_scale_inv": scales} if keep_scales else {}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    (directory / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return directory


@pytest.mark.parametrize("shape", [(64, 96), (70, 100), (1, 1), (33, 47)])
def test_each_element_is_its_code_times_the_scale_of_its_block(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    codes, scales = quantize(torch.randn(shape))
    plain = dequantize_blocks(codes, scales, BLOCK)
    assert plain.dtype == torch.bfloat16
    for row in range(shape[0]):
        for column in range(shape[1]):
            expected = codes[row, column].float() * scales[row // BLOCK[0], column // BLOCK[1]]
            assert plain[row, column] == expected.to(torch.bfloat16)


def test_it_is_what_transformers_computes() -> None:
    torch.manual_seed(1)
    codes, scales = quantize(torch.randn(256, 384), (128, 128))
    theirs = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.bfloat16)
    assert torch.equal(dequantize_blocks(codes, scales), theirs)


@pytest.mark.parametrize("wrong", [(2, 3), (1, 2), (3, 2), (2,)])
def test_scales_that_do_not_fit_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        dequantize_blocks(torch.zeros(64, 96).to(torch.float8_e4m3fn), torch.ones(wrong), BLOCK)


def test_a_checkpoint_is_plain_afterwards(tmp_path: Path) -> None:
    source = write(tmp_path / "codes")
    target = dequantize_checkpoint(source, tmp_path / "plain", what="o/n")
    codes, plain = load_file(source / "model.safetensors"), load_file(target / "model.safetensors")
    assert set(plain) == {name for name in codes if not name.endswith("_scale_inv")}
    assert {weight.dtype for weight in plain.values()} == {torch.bfloat16}
    original: dict[str, Tensor] = {}
    for file in repository("stand-in/llama").glob("*.safetensors"):
        original |= load_file(file)
    for name, weight in plain.items():
        error = (weight.float() - original[name].float()).norm() / original[name].float().norm()
        assert error < (0.04 if name.endswith("_proj.weight") else 1e-9), name
    config = json.loads((target / "config.json").read_text())
    assert "quantization_config" not in config
    assert (target / "tokenizer.json").is_file()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"settings": {"quant_method": "gptq", "bits": 4}}, "quant_method 'gptq'"),
    "no settings": ({"settings": None}, "quant_method None"),
    "a block without sides": ({"settings": {**SETTINGS, "weight_block_size": 128}}, "weight_block_size 128"),
    "blocks of another size": ({"settings": {**SETTINGS, "weight_block_size": [128, 128]}}, "do not fit"),
    "no scales": ({"keep_scales": False}, "no tensor has scale_inv beside it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_rule_does_not_cover_is_refused_by_name(name: str, tmp_path: Path) -> None:
    changes, told = REFUSED[name]
    with pytest.raises(QuantizedError, match=told) as refused:
        dequantize_checkpoint(write(tmp_path / "codes", **changes), tmp_path / "plain", what="o/n@12345678")
    assert str(refused.value).startswith("o/n@12345678")


def test_codes_that_stay_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "codes")
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight_scale_inv"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QuantizedError, match=r"with FP8 dequantised.*up_proj\.weight of dtype F8_E4M3"):
        dequantize_checkpoint(source, tmp_path / "plain", what="o/n")
