"""Traces of real forward passes: names, values, rows and teacher forcing."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.subjects.trace_files import TraceReader, TraceWriter
from tests.ci.subjects.hugging_face.conftest import NAMES
from tests.ci.subjects.tiny import compare_traces, relative_error, save_model

if TYPE_CHECKING:
    from ci.subjects.hugging_face import HuggingFace

DENSE = ["norm_1", "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer", "mixer_residual", "norm_2"]
ROUTED = [*DENSE, "mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores"]


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_of_everything(name: str, make: Any, hugging_face: HuggingFace) -> None:
    request = make(name, "trace", capture="all")
    result = hugging_face.trace(request)
    operations = [*(ROUTED if name == "mixtral" else DENSE), "mlp"]
    assert result.scopes == ("embeddings", "decoder.0", "decoder.1", "decoder.2", "head")
    assert result.names["decoder.1"] == (*(f"decoder.1.{operation}" for operation in operations), "decoder.1")
    assert result.names["head"] == ("final_norm", "logits")
    assert result.not_captured == ()
    trace = TraceReader(Path(request.output))
    heads = 8 if name == "qwen2" else 16
    assert trace.tensor("decoder.0.mixer.query").shape == (2, 24, 6, heads)
    assert trace.tensor("decoder.0.mixer.key").shape == (2, 24, 2, heads)
    assert trace.tensor("decoder.0.mixer.context").shape == (2, 24, 6 * heads)
    assert trace.tensor("logits").shape == (2, 24, 211)
    assert not trace.tensor("logits")[1, :5].any()
    assert trace.tensor("logits")[1, 5:].any()


def test_values_are_those_of_the_operations(make: Any, models: dict[str, Path], hugging_face: HuggingFace) -> None:
    request = make("mixtral", "trace", capture="all")
    hugging_face.trace(request)
    t = TraceReader(Path(request.output)).tensor
    weights = load_file(models["mixtral"] / "model.safetensors")
    real = (slice(0, 1), slice(None))
    context, output = weights["model.layers.1.self_attn.o_proj.weight"], t("decoder.1.mixer")
    torch.testing.assert_close((t("decoder.1.mixer.context") @ context.T)[real], output[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(t("decoder.1.mixer_residual")[real], (t("decoder.0") + output)[real])
    torch.testing.assert_close(t("decoder.1")[real], (t("decoder.1.mixer_residual") + t("decoder.1.mlp"))[real])
    logits, scores = t("decoder.1.mlp.router_logits")[real], t("decoder.1.mlp.router_scores")[real]
    top = logits.softmax(-1).topk(2)
    assert torch.equal(t("decoder.1.mlp.router_top_experts")[real], top.indices)
    torch.testing.assert_close(scores, top.values / top.values.sum(-1, keepdim=True))


def test_query_is_rotated(make: Any, models: dict[str, Path], hugging_face: HuggingFace) -> None:
    request = make("qwen2", "trace", capture="all")
    hugging_face.trace(request)
    t = TraceReader(Path(request.output)).tensor
    weights = load_file(models["qwen2"] / "model.safetensors")
    prefix = "model.layers.0.self_attn.q_proj"
    plain = t("decoder.0.norm_1") @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]
    query = t("decoder.0.mixer.query").flatten(-2)
    torch.testing.assert_close(query[0, 0], plain[0, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(query[1, 5], plain[1, 5], rtol=1e-4, atol=1e-5)  # the first token after the padding
    assert relative_error(query[0, 1:], plain[0, 1:]) > 0.1


def test_row_by_row_equals_together(make: Any, hugging_face: HuggingFace) -> None:
    together = make("mixtral", "together", capture="all")
    alone = make("mixtral", "alone", capture="all", variant={"batch": "row_by_row"})
    hugging_face.trace(together)
    assert hugging_face.trace(alone).ran == {"attention": "eager", "experts": "eager", "batch": "row_by_row"}
    assert max(compare_traces(alone.output, together.output).values()) < 1e-5
    assert {path.name for path in Path(alone.output).parent.iterdir()} == {"alone", "together", "inputs.safetensors"}


@pytest.mark.parametrize("batch", ["together", "row_by_row"])
def test_feeding_a_model_its_own_trace_changes_nothing(batch: str, make: Any, hugging_face: HuggingFace) -> None:
    variant = {"batch": batch}
    plain = make("mixtral", "plain", capture="all", variant=variant)
    hugging_face.trace(plain)
    teacher_forced = make("mixtral", "teacher_forced", capture="all", variant=variant, feed=plain.output)
    hugging_face.trace(teacher_forced)
    assert max(compare_traces(teacher_forced.output, plain.output).values()) == 0


def test_feed_isolates_each_block(
    make: Any, models: dict[str, Path], tmp_path: Path, hugging_face: HuggingFace
) -> None:
    plain = make("llama", "plain")
    hugging_face.trace(plain)
    broken = save_model("llama", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    end_to_end = replace(plain, checkpoint=str(broken), output=str(tmp_path / "end_to_end"))
    teacher_forced = replace(end_to_end, output=str(tmp_path / "teacher_forced"), feed=plain.output)
    hugging_face.trace(end_to_end)
    hugging_face.trace(teacher_forced)
    assert [name for name, error in compare_traces(end_to_end.output, plain.output).items() if error] == [
        "decoder.1", "decoder.2", "final_norm", "logits",
    ]  # fmt: skip
    assert [name for name, error in compare_traces(teacher_forced.output, plain.output).items() if error] == [
        "decoder.1"
    ]


def test_no_more_than_one_layer_is_held(make: Any, hugging_face: HuggingFace, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[weakref.ref[torch.Tensor]] = []
    still_held: list[int] = []
    write = TraceWriter.write_scope

    def spy(self: TraceWriter, scope: str, tensors: Any) -> None:
        still_held.append(sum(tensor() is not None for tensor in earlier))
        earlier.extend(weakref.ref(tensor) for tensor in tensors.values())
        write(self, scope, tensors)

    monkeypatch.setattr(TraceWriter, "write_scope", spy)
    hugging_face.trace(make("mixtral", "trace", capture="all"))
    assert still_held == [0] * 5
