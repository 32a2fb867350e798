"""Traces: what is captured, what ran, teacher forcing, padding, and requests that cannot be met."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.subjects.forward import read_inputs
from ci.subjects.reference import moe
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.model import Context
from ci.subjects.reference.trace import load_model
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.reference.cases import save_inputs, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ci.subjects.reference.conftest import ModelFactory


def test_blocks_captures_the_mandatory_and_nothing_else(factory: ModelFactory, tmp_path: Path) -> None:
    request = trace_request(factory.converted("mixtral"), factory.inputs, tmp_path / "trace")
    result = factory.subject.trace(request)
    assert list(TraceReader(tmp_path / "trace")) == [
        *("embeddings", "decoder.0", "decoder.1", "decoder.2", "final_norm", "logits")
    ]
    assert result.scopes == ("embeddings", "decoder.0", "decoder.1", "decoder.2", "head")
    assert result.ran == {"attention": "eager", "moe": "looped"}


def test_all_captures_in_execution_order(factory: ModelFactory) -> None:
    block = [name for name in TraceReader(factory.trace("mixtral")) if name.startswith("decoder.1")]
    assert [name.removeprefix("decoder.1").removeprefix(".") for name in block] == [
        *("norm_1", "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer", "mixer_residual", "norm_2"),
        *("mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores", "mlp", ""),
    ]


@pytest.mark.parametrize("variant", [{"attention": "sdpa"}, {"attention": "blockwise", "moe": "dropless"}])
def test_what_ran_is_what_was_asked_for(factory: ModelFactory, tmp_path: Path, variant: dict[str, str]) -> None:
    request = trace_request(factory.converted("mixtral"), factory.inputs, tmp_path / "trace", variant=variant)
    assert factory.subject.trace(request).ran == {"attention": "eager", "moe": "looped", **variant}


def test_what_ran_is_what_executed(factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that falls back on another cannot pass for itself."""
    monkeypatch.setitem(moe.MOE, "dropless", moe.looped)
    variant = {"moe": "dropless"}
    request = trace_request(factory.converted("mixtral"), factory.inputs, tmp_path / "trace", variant=variant)
    assert factory.subject.trace(request).ran["moe"] == "looped"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_feeding_its_own_trace_changes_nothing(factory: ModelFactory, tmp_path: Path, dtype: Any) -> None:
    own = factory.trace("llama", dtype)
    request = trace_request(factory.converted("llama"), factory.inputs, tmp_path / "trace", dtype=dtype, feed=str(own))
    factory.subject.trace(replace(request, capture="all"))
    teacher_forced, before = TraceReader(tmp_path / "trace"), TraceReader(own)
    real = load_file(factory.inputs)["attention_mask"].bool()
    assert all(teacher_forced.tensor(name)[real].equal(before.tensor(name)[real]) for name in before)


def test_feeding_isolates_each_block(factory: ModelFactory, tmp_path: Path) -> None:
    """With another model's trace as input, block 2 answers as if that model had come before it."""
    converted, other = factory.converted("llama"), factory.trace("llama-gelu")
    factory.subject.trace(trace_request(converted, factory.inputs, tmp_path / "trace", feed=str(other)))
    teacher_forced = TraceReader(tmp_path / "trace")
    checkpoint = read_fast_llm(converted)
    inputs = read_inputs(factory.inputs)
    model = load_model(checkpoint, torch.float32, "cpu")
    positions = inputs.position_ids()
    assert positions is not None
    context = Context(positions, inputs.mask)
    expected = model.run_block(2, TraceReader(other).tensor("decoder.1"), context, lambda *_: None)
    real = load_file(factory.inputs)["attention_mask"].bool()
    assert teacher_forced.tensor("decoder.2")[real].equal(expected[real])
    assert teacher_forced.tensor("embeddings").equal(TraceReader(factory.trace("llama")).tensor("embeddings"))


@pytest.mark.parametrize("variant", [{}, {"attention": "sdpa"}, {"attention": "blockwise"}])
@pytest.mark.parametrize("name", ["mistral-window", "llama-llama3"])
def test_a_padded_row_answers_as_it_does_alone(
    factory: ModelFactory, tmp_path: Path, name: str, variant: dict[str, str]
) -> None:
    padded = save_inputs(tmp_path / "padded.safetensors", padding=(0, 31), length=60)
    ids = load_file(padded)["input_ids"][1:, 31:].contiguous()
    save_file({"input_ids": ids}, tmp_path / "alone.safetensors")
    for case in ("padded", "alone"):
        inputs, output = tmp_path / f"{case}.safetensors", tmp_path / case
        factory.subject.trace(trace_request(factory.converted(name), inputs, output, variant=variant))
    together = TraceReader(tmp_path / "padded").tensor("logits")
    torch.testing.assert_close(
        together[1:, 31:], TraceReader(tmp_path / "alone").tensor("logits"), rtol=1e-5, atol=1e-5
    )
    assert not together[1, :31].any()


def test_a_later_token_changes_nothing_before_it(factory: ModelFactory, tmp_path: Path) -> None:
    ids = load_file(factory.inputs)["input_ids"][:1]
    for case, last in (("a", 3), ("b", 200)):
        changed = ids.clone()
        changed[0, 40] = last
        save_file({"input_ids": changed}, tmp_path / f"{case}.safetensors")
        request = trace_request(factory.converted("mistral-window"), tmp_path / f"{case}.safetensors", tmp_path / case)
        factory.subject.trace(request)
    a, b = (TraceReader(tmp_path / case).tensor("decoder.0")[0] for case in ("a", "b"))
    assert a[:40].equal(b[:40])
    assert not a[40:60].isclose(b[40:60]).all(-1).any()  # the window is 20 tokens
    assert a[60:].equal(b[60:])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"variant": {"attention": "flash"}}, UnsupportedError, "no variant attention=flash"),
        ({"variant": {"moe": "looped"}}, UnsupportedError, "this model has no variant moe=looped"),
        ({"checkpoint": "nowhere"}, SubjectError, "not a finished checkpoint"),
        ({"feed": "nowhere"}, SubjectError, "is not a finished trace"),
    ],
)
def test_requests_that_cannot_be_met(
    factory: ModelFactory, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    request = trace_request(factory.converted("llama"), factory.inputs, tmp_path / "trace")
    with pytest.raises(error, match=message):
        factory.subject.trace(replace(request, **change))
    assert not (tmp_path / "trace" / "trace.json").exists()


def test_an_id_beyond_the_vocabulary_is_refused(factory: ModelFactory, tmp_path: Path) -> None:
    save_file({"input_ids": torch.tensor([[1, 331]])}, tmp_path / "inputs.safetensors")
    request = trace_request(factory.converted("llama"), tmp_path / "inputs.safetensors", tmp_path / "trace")
    with pytest.raises(RequestError, match="input_ids contain 331, but the model's vocabulary ends at 330"):
        factory.subject.trace(request)


def test_arithmetic_settings_are_restored(factory: ModelFactory, tmp_path: Path) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        factory.subject.trace(trace_request(factory.converted("llama"), factory.inputs, tmp_path / "trace"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
