"""Which mixer a block runs, on stand-in blocks; against the real Fast-LLM's apriel2_text where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.base import ConvertRequest
from ci.subjects.fast_llm.mixers import find_mixer, find_mixer_path, list_operations, observe_delta_rule
from ci.subjects.hugging_face.code_source import ModelCodeSource
from ci.subjects.hugging_face.worker import open_hugging_face
from ci.subjects.sandbox import detect_isolation
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import DELTA_RULE_OPERATIONS
from tests.ci.subjects.tiny import relative_error, save_inputs, trace_request

if TYPE_CHECKING:
    from ci.subjects.base import Subject

REFERENCE_PYTHON = os.environ.get("HUB_TESTS_REFERENCE_PYTHON")
REFERENCE_PATH = tuple(Path(p) for p in os.environ.get("HUB_TESTS_REFERENCE_PATH", "").split(os.pathsep) if p)
CHECKOUT = os.environ.get("HUB_TESTS_FAST_LLM_PATH", "").split(os.pathsep)[-1]
GDN = {"type": "gdn", "value_heads": 6, "key_heads": 2, "key_head_dim": 8, "value_head_dim": 12}
KDA = {"type": "kda", "heads": 3, "head_dim": 10, "normalization": {"epsilon": 1e-3}}
MLP = {"type": "mlp", "intermediate_size": 72, "activation": "silu", "gated": True, "add_linear_biases": False}
AUTO_MAP = {
    "AutoConfig": "configuration_apriel2.Apriel2TextConfig",
    "AutoModelForCausalLM": "modeling_apriel2.Apriel2ForCausalLM",
}


class Delta(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_proj = torch.nn.Linear(6, 4)
        self.chunk_gated_delta_rule: Any = lambda q, k, v, **_: (q + k + v, None)

    def forward(self, x: torch.Tensor) -> Any:
        gates = {"g": x[..., 0], "beta": x[..., 1]}
        return self.out_proj(self.chunk_gated_delta_rule(x, 2 * x, v=3 * x, **gates)[0].flatten(-2))


def make_block(main: str) -> Any:
    mixers = {"attention": torch.nn.Linear(4, 4), "gdn": Delta()}
    stochastic = SimpleNamespace(mixers=mixers, _config=SimpleNamespace(main_mixer_name=main))
    return SimpleNamespace(mixer=stochastic, mlp=torch.nn.Linear(4, 4))


def test_the_main_mixer_runs() -> None:
    block = make_block("gdn")
    assert find_mixer(block) is block.mixer.mixers["gdn"]
    assert find_mixer_path(block) == "mixer.mixers.gdn"
    plain = SimpleNamespace(mixer=torch.nn.Linear(4, 4))
    assert find_mixer(plain) is plain.mixer
    assert find_mixer_path(plain) == "mixer"


@pytest.mark.parametrize(("main", "recurrent"), [("gdn", True), ("attention", False)])
def test_a_recurrence_has_operations_of_its_own(main: str, recurrent: bool) -> None:
    operations = list_operations(make_block(main))
    assert set(DELTA_RULE_OPERATIONS).issubset(operations) is recurrent


def test_what_the_kernel_is_given_is_recorded_and_the_kernel_put_back() -> None:
    mixer, seen = Delta(), dict[str, torch.Tensor]()
    kernel, x = mixer.chunk_gated_delta_rule, torch.randn(1, 5, 2, 3)
    with observe_delta_rule(mixer, seen.__setitem__):
        mixer(x)
    assert torch.equal(seen["mixer.key"], 2 * x[0])
    assert torch.equal(seen["mixer.recurrence"], 6 * x[0])
    assert torch.equal(seen["mixer.context"], 6 * x.flatten(-2))
    assert set(seen) == {
        f"mixer.{name}" for name in ("query", "key", "value", "decay", "beta", "recurrence", "context")
    }
    assert mixer.chunk_gated_delta_rule is kernel
    assert not mixer.out_proj._forward_pre_hooks


def save_apriel2(directory: Path, main: str) -> Path:
    """A config with the structure of the published SuperApriel (recipe of our own; not the published config)."""
    attention = {"type": "attention", "heads": 6, "head_groups": 2, "head_size": 16, "add_linear_biases": False}
    attention |= {"rotary": {"type": "mistral_1d", "theta": 10000.0}}
    convolution = {"convolution_layer": {"kernel_size": 3}}
    mixers = {"gdn": GDN | convolution, "kda": KDA | convolution, "sliding_window": attention | {"window_size": 9}}
    mixer = {"type": "stochastic", "main_mixer_name": main, "mixers": {"attention": attention, **mixers}}
    norm = {"normalization": {"type": "rms_norm", "epsilon": 1e-5}}
    block = {"mixer": mixer, "mlp": MLP, **norm}
    config = {
        "model_type": "apriel2_text",
        "architectures": ["Apriel2ForCausalLM"],
        "auto_map": AUTO_MAP,
        "hidden_size": 48,
        "vocab_size": 211,
        "embeddings": {"max_position_embeddings": 128},
        "head": norm,
        "decoder": {"type": "fixed", "num_blocks": 2, "block": block},
        "tie_word_embeddings": False,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("main", ["gdn", "kda", "sliding_window"])
def test_the_real_one_equals_its_own_modelling_code(main: str, fast_llm: Subject, tmp_path: Path) -> None:
    """T = 80 goes beyond a chunk of 64 tokens, in rows of which one is padded."""
    if not REFERENCE_PYTHON:
        pytest.skip(
            "needs Fast-LLM: set HUB_TESTS_FAST_LLM_PYTHON, and HUB_TESTS_REFERENCE_PYTHON with transformers 5.14"
        )
    source = ModelCodeSource(Path(CHECKOUT) / "fast_llm_external_models" / "apriel2", "the checkout")
    inputs = save_inputs(tmp_path / "inputs.safetensors", padding=(0, 11), length=80)
    with open_hugging_face(
        Path(REFERENCE_PYTHON), source, detect_isolation(), environ=os.environ, path=REFERENCE_PATH
    ) as side:
        side.write_model(str(save_apriel2(tmp_path / "config", main)), str(tmp_path / "model"), "float32", 0)
        request = {"dtype": "float64", "capture": "all"}
        side.trace(trace_request(tmp_path / "model", inputs, tmp_path / "expected", **request))
    fast_llm.convert(ConvertRequest(str(tmp_path / "model"), str(tmp_path / "converted"), "apriel2_text"))
    fast_llm.trace(trace_request(tmp_path / "converted", inputs, tmp_path / "actual", capture="all"))
    actual, expected = TraceReader(tmp_path / "actual"), TraceReader(tmp_path / "expected")
    assert actual.result.ran["mixer"] == main
    assert set(actual) == set(expected)
    errors = {name: relative_error(actual.tensor(name), expected.tensor(name)) for name in expected}
    assert max(errors.values()) < 2e-5, max(errors, key=lambda name: errors[name])
