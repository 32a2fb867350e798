"""The reference against Fast-LLM's own modelling code of five formats.

Runs where `HUB_TESTS_FAST_LLM_PATH` names a checkout of Fast-LLM and `HUB_TESTS_REFERENCE_PYTHON` an interpreter with
transformers: 5.14 for mtp_llama and apriel2_text, 4.57 for dream, diffusion_llama and apriel_hybrid_ssm.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.subjects.base import GradientRequest
from ci.subjects.hugging_face.code_source import ModelCodeSource
from ci.subjects.hugging_face.worker import open_hugging_face
from ci.subjects.reference.gradients import run_gradients
from ci.subjects.reference.subject import ReferenceSubject
from ci.subjects.sandbox import detect_isolation
from tests.ci.subjects.reference.cases import convert_request, errors, save_inputs, trace_request
from tests.ci.subjects.reference.test_convert import tensors
from tests.standin.own_models import OWN_MODELS, save_config

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = os.environ.get("HUB_TESTS_REFERENCE_PYTHON")
CHECKOUT = os.environ.get("HUB_TESTS_FAST_LLM_PATH", "").split(os.pathsep)[-1]
SEARCHED = tuple(Path(p) for p in os.environ.get("HUB_TESTS_REFERENCE_PATH", "").split(os.pathsep) if p)

pytestmark = [
    pytest.mark.skipif(
        not (PYTHON and CHECKOUT),
        reason="needs Fast-LLM: set HUB_TESTS_FAST_LLM_PYTHON to its interpreter, HUB_TESTS_FAST_LLM_PATH to its tree, "
        "and HUB_TESTS_REFERENCE_PYTHON",
    ),
    pytest.mark.long,
]


@dataclass(frozen=True)
class Code:
    """Modelling code of Fast-LLM: its folder, its classes, and the transformers in which it runs."""

    folder: str
    config: str
    model: tuple[str, str]
    transformers: str


CODE = {
    "mtp_llama": Code(
        "mtp_llama",
        "configuration_mtp_llama.MTPLlamaConfig",
        ("AutoModelForCausalLM", "modeling_mtp_llama.MTPLlamaForCausalLM"),
        "5",
    ),
    "apriel2_text": Code(
        "apriel2",
        "configuration_apriel2.Apriel2TextConfig",
        ("AutoModelForCausalLM", "modeling_apriel2.Apriel2ForCausalLM"),
        "5",
    ),
    "dream": Code(
        "diffusion_dream", "configuration_dream.DreamConfig", ("AutoModel", "modeling_dream.DreamModel"), "4"
    ),
    "diffusion_llama": Code(
        "diffusion_llama",
        "configuration_diffusion_llama.DiffusionLlamaConfig",
        ("AutoModel", "modeling_diffusion_llama.DiffusionLlamaModel"),
        "4",
    ),
    "apriel_hybrid_ssm": Code(
        "apriel_hybrid_ssm",
        "configuration_apriel_hybrid_ssm.AprielHybridSSMConfig",
        ("AutoModelForCausalLM", "modeling_apriel_hybrid_ssm.AprielHybridSSMForCausalLM"),
        "4",
    ),
}


@cache
def find_version() -> str:
    """The major version of the interpreter's transformers."""
    command = [str(PYTHON), "-c", "from importlib.metadata import version; print(version('transformers'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(".")[0]


@pytest.fixture(scope="module", params=[name for name in OWN_MODELS if name != "mtp-tied"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any, Path]]:
    """A case, Hugging Face's side with the real code, and a directory with the model and its conversion."""
    kind = str(OWN_MODELS[request.param]["model_type"])
    code, root = CODE[kind], tmp_path_factory.mktemp(request.param)
    if find_version() != code.transformers:
        pytest.skip(f"needs Fast-LLM: set HUB_TESTS_FAST_LLM_PYTHON, and a transformers {code.transformers} for {kind}")
    auto_map = {"AutoConfig": code.config, code.model[0]: code.model[1]}
    save_config({**OWN_MODELS[request.param], "auto_map": auto_map, "dtype": "float32"}, root / "config")
    save_inputs(root / "inputs.safetensors")
    source = ModelCodeSource(Path(CHECKOUT) / "fast_llm_external_models" / code.folder, "the checkout")
    isolation = detect_isolation()
    with open_hugging_face(Path(str(PYTHON)), source, isolation, environ=os.environ, path=SEARCHED) as side:
        side.write_model(str(root / "config"), str(root / "model"), "float32", 0)
        ReferenceSubject().convert(convert_request(root / "model", root / "converted", kind))
        yield request.param, side, root


def test_every_tensor_equals_the_models_own_code(case: tuple[str, Any, Path]) -> None:
    name, side, root = case
    inputs = root / "inputs.safetensors"
    settings: Any = {"dtype": "float64", "capture": "all"}
    side.trace(trace_request(root / "model", inputs, root / "expected", **settings))
    ReferenceSubject().trace(trace_request(root / "converted", inputs, root / "actual", **settings))
    by_tensor = errors(root / "actual", root / "expected")
    worst = max(by_tensor, key=lambda tensor: by_tensor[tensor])
    print(f"{name}: worst of {len(by_tensor)} is {worst} with {by_tensor[worst]:.1e}")
    assert by_tensor[worst] <= 5e-7, worst


def test_every_gradient_equals_the_models_own_code(case: tuple[str, Any, Path]) -> None:
    name, side, root = case
    inputs = root / "row.safetensors"
    save_inputs(inputs, padding=(0,), length=60)
    kind = str(OWN_MODELS[name]["model_type"])
    requests = [
        GradientRequest(str(root / source), str(inputs), str(root / f"gradients-{source}"), kind, dtype="float64")
        for source in ("model", "converted")
    ]
    expected, actual = side.gradients(requests[0]), run_gradients(requests[1])
    assert actual.loss == pytest.approx(expected.loss, rel=1e-7)
    theirs, ours = (tensors(Path(request.output)) for request in requests)
    assert ours.keys() == theirs.keys()
    by_tensor = {key: float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in theirs}
    worst = max(by_tensor, key=lambda tensor: by_tensor[tensor])
    print(f"{name}: worst gradient of {len(by_tensor)} is {worst} with {by_tensor[worst]:.1e}")
    assert by_tensor[worst] <= 5e-6, worst
