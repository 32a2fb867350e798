"""Interchange with the real Fast-LLM: each reads what the other writes, and both answer as transformers does.

Runs where `HUB_TESTS_FAST_LLM_PYTHON` names an interpreter that can import fast_llm (with `HUB_TESTS_FAST_LLM_PATH`,
its checkout, where it is not installed).
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from ci.subjects.reference.directories import read_fast_llm, read_huggingface
from tests.ci.subjects.reference import fast_llm_peer
from tests.ci.subjects.reference.cases import CASES, convert_request, errors, format_of, trace_request

if TYPE_CHECKING:
    from ci.subjects.base import ConvertRequest, TraceRequest
    from tests.ci.subjects.reference.conftest import ModelFactory

PYTHON = os.environ.get("HUB_TESTS_FAST_LLM_PYTHON")
CHECKOUT = os.environ.get("HUB_TESTS_FAST_LLM_PATH")
ROOT = Path(__file__).parents[4]
SECONDS = 900

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="HUB_TESTS_FAST_LLM_PYTHON names no interpreter with Fast-LLM"),
    pytest.mark.xdist_group("fast_llm"),
]

NOT_CONVERTED = (
    *("llama-yarn-bare", "llama-yarn-mscale"),  # refused: YaRN without an attention_factor
    *("mixtral", "mixtral-null-head-dim"),  # refused: no head_dim, as production's config.json has none
    *("qwen2-sliding", "qwen2-layer-types"),  # converted, the window dropped
    *("dream", "diffusion"),  # converted as causal
    "apriel-hybrid",  # refused: layer_types, which the format's own config class adds
    "llava",  # converted, the projector's exact gelu taken for the one by tanh
)
"""What Fast-LLM 0.4 cannot convert yet."""
NOT_RUN = {
    "apriel2-mamba": "_mamba_available",  # Mamba needs CUDA kernels
    "apriel-hybrid": "_mamba_available",
    "llava": "gelu_exact",  # refused by name
}
"""What Fast-LLM 0.4 cannot run on a CPU, and a word of what it says."""
WRONG = ("apriel2-supernet",)
"""What it runs wrongly: two attentions in one stochastic mixer share one mask."""

Peer = dict[tuple[str, str], str | None]


@pytest.fixture(scope="session")
def peer(factory: ModelFactory) -> Peer:
    """All of Fast-LLM's work in one process: (what, case) → None, or its error."""
    calls: dict[tuple[str, str], ConvertRequest | TraceRequest] = {}
    for name in CASES:
        theirs = factory.root / f"{name}.theirs"
        calls["convert", name] = convert_request(factory.source(name), theirs, format_of(name))
        calls["trace", name] = trace_request(
            factory.converted(name), factory.inputs_of(name), factory.root / f"{name}.peer", capture="all"
        )
    requests = [{"do": do, "request": asdict(request)} for (do, _), request in calls.items()]
    return dict(zip(calls, run(factory.root, requests), strict=True))


def run(directory: Path, requests: list[dict[str, Any]]) -> list[str | None]:
    files = [directory / "calls.json", directory / "answers.json"]
    files[0].write_text(json.dumps(requests))
    path = os.pathsep.join(filter(None, (str(ROOT), CHECKOUT)))
    command = [str(PYTHON), fast_llm_peer.__file__, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    answers: list[str | None] = json.loads(files[1].read_text())
    return answers


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*NOT_RUN, *WRONG)])
def test_fast_llm_runs_what_the_reference_writes(factory: ModelFactory, peer: Peer, name: str) -> None:
    assert peer["trace", name] is None
    expected = factory.expected(name)
    by_tensor = {n: e for n, e in errors(factory.root / f"{name}.peer", expected, common=True).items() if comparable(n)}
    print(f"{name}: Fast-LLM over the reference's conversion, worst of {len(by_tensor)}: {max(by_tensor.values()):.1e}")
    assert max(by_tensor.values()) <= (5e-6 if name.startswith("apriel2") else 2e-6), by_tensor


def comparable(name: str) -> bool:
    """All that does not depend on where a token's position is counted from (Fast-LLM turns by packed positions)."""
    return not name.endswith(("mixer.query", "mixer.key"))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_CONVERTED])
def test_the_reference_runs_what_fast_llm_writes(factory: ModelFactory, peer: Peer, name: str) -> None:
    assert peer["convert", name] is None
    theirs, output = factory.root / f"{name}.theirs", factory.root / f"{name}.over-theirs"
    factory.subject.trace(trace_request(theirs, factory.inputs_of(name), output, capture="all"))
    by_tensor = errors(output, factory.expected(name))
    print(f"{name}: reference over Fast-LLM's conversion, worst of {len(by_tensor)}: {max(by_tensor.values()):.1e}")
    assert max(by_tensor.values()) <= (5e-6 if name.startswith("apriel2") else 1e-6), by_tensor


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_CONVERTED])
def test_both_write_the_same_bits(factory: ModelFactory, peer: Peer, name: str) -> None:
    assert peer["convert", name] is None
    ours, theirs = factory.converted(name), factory.root / f"{name}.theirs"
    assert read_fast_llm(ours).architecture == read_fast_llm(theirs).architecture
    mine, other = (load_file(path / "model_0.safetensors") for path in (ours, theirs))
    assert mine.keys() == other.keys()
    assert all(mine[key].equal(other[key]) for key in other)


def test_what_fast_llm_cannot_convert_is_known(factory: ModelFactory, peer: Peer) -> None:
    """When Fast-LLM learns one of these, this fails, and the case moves to those that are interchanged."""
    for name in NOT_CONVERTED:
        theirs = factory.root / f"{name}.theirs"
        expected = read_huggingface(factory.source(name), format_of(name)).architecture
        assert peer["convert", name] is not None or read_fast_llm(theirs).architecture != expected, name


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_fast_llm_cannot_run_is_known(peer: Peer, name: str) -> None:
    print(f"{name}: {peer['trace', name]}")
    assert NOT_RUN[name] in str(peer["trace", name])


@pytest.mark.parametrize("name", WRONG)
def test_what_fast_llm_runs_wrongly_is_known(factory: ModelFactory, peer: Peer, name: str) -> None:
    """When Fast-LLM mends it, this fails, and the case moves to those that are right."""
    assert peer["trace", name] is None
    by_tensor = errors(factory.root / f"{name}.peer", factory.expected(name), common=True)
    assert by_tensor["decoder.0.mixer.context"] > 0.1
