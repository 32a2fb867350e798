"""Traces of a model's own code: every operation is captured, and is what its formula says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.kernels import recurrent_delta_rule
from ci.subjects.hugging_face.watched_functions import find_own_modules
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import list_prediction_head_tensors
from tests.ci.subjects.own_code import save_code, save_config
from tests.ci.subjects.tiny import CONFIGS, relative_error, trace_request

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> HuggingFace:
    return HuggingFace(code=save_code(tmp_path_factory.mktemp("code")))


@pytest.fixture(scope="module")
def model(side: HuggingFace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    side.write_model(str(save_config(root / "config", ("attention", "main-gdn"))), str(root / "model"), "float32", 1)
    ids = torch.randint(0, 53, (2, 9), generator=torch.Generator().manual_seed(3))
    save_file({"input_ids": ids}, root / "inputs.safetensors")
    return root / "model"


def trace(side: HuggingFace, model: Path, output: Path, **rest: object) -> TraceReader:
    inputs = model.parent / "inputs.safetensors"
    side.trace(trace_request(model, inputs, output, capture="all", **rest))
    return TraceReader(output)


def test_every_operation_of_its_own_code_is_captured(side: HuggingFace, model: Path, tmp_path: Path) -> None:
    got = trace(side, model, tmp_path / "trace", dtype="float64", variant={"attention": "eager"})
    assert got.result.not_captured == ()
    assert dict(got.result.ran) == {"attention": "eager", "mixer": "gdn", "batch": "row_by_row"}
    assert set(list_prediction_head_tensors(2)) <= set(got)
    names = ("query", "key", "value", "decay", "beta")
    given = {name: got.tensor(f"decoder.1.mixer.{name}") for name in names}
    again = recurrent_delta_rule(*given.values(), normalize=True)
    assert relative_error(got.tensor("decoder.1.mixer.recurrence"), again) < 1e-14
    query, key, value = (got.tensor(f"decoder.0.mixer.{name}").transpose(1, 2) for name in names[:3])
    context = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert relative_error(got.tensor("decoder.0.mixer.context"), context.transpose(1, 2).flatten(2)) < 1e-14


def test_what_ran_is_what_was_seen(side: HuggingFace, model: Path, tmp_path: Path) -> None:
    got = trace(side, model, tmp_path / "trace", variant={"attention": "sdpa"})
    assert got.result.ran["attention"] == "sdpa"


def test_a_model_fed_its_own_trace_answers_the_same(side: HuggingFace, model: Path, tmp_path: Path) -> None:
    first = trace(side, model, tmp_path / "first", dtype="float64")
    fed = trace(side, model, tmp_path / "fed", dtype="float64", feed=str(first.path))
    assert all(torch.equal(fed.tensor(name), first.tensor(name)) for name in first)


def test_a_padded_row_of_a_recurrence_runs_alone(side: HuggingFace, model: Path) -> None:
    batch = [variant.name for variant in side.variants(str(model)) if variant.axis == "batch"]
    assert batch == ["row_by_row"]


def test_functions_are_put_back(side: HuggingFace, model: Path, tmp_path: Path) -> None:
    sdpa = torch.nn.functional.scaled_dot_product_attention
    built = side.loader.build(str(model))
    (module,) = find_own_modules(built)
    before = dict(vars(module))
    trace(side, model, tmp_path / "trace")
    assert vars(module) == before
    assert torch.nn.functional.scaled_dot_product_attention is sdpa
    assert find_own_modules(AutoModelForCausalLM.from_config(CONFIGS["llama"])) == ()
