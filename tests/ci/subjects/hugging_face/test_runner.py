from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.trace_files import TraceReader, TraceWriter
from tests.ci.subjects.tiny import relative_error, save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.base import TraceRequest

DENSE = ["norm_1", "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer", "mixer_residual", "norm_2"]
ROUTED = [*DENSE, "mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores"]
NAMES = ["llama", "mistral", "mixtral", "qwen2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    return {name: save_model(name, root / name) for name in NAMES}


@pytest.fixture(scope="module")
def hugging_face() -> Iterator[HuggingFace]:
    with HuggingFace() as reference:
        yield reference


@pytest.fixture
def make(models: dict[str, Path], tmp_path: Path) -> Any:
    """`make(name, label, **fields)` → TraceRequest over two rows, the second left padded by 5."""

    def request(name: str, label: str, **fields: Any) -> TraceRequest:
        inputs = tmp_path / "inputs.safetensors"
        if not inputs.exists():
            save_inputs(inputs, padding=(0, 5))
        return trace_request(models[name], inputs, tmp_path / label, **fields)

    return request


def errors(path_a: str, path_b: str) -> dict[str, float]:
    a, b = TraceReader(Path(path_a)), TraceReader(Path(path_b))
    assert list(a) == list(b)
    return {name: relative_error(a.tensor(name), b.tensor(name)) for name in a}


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


@pytest.mark.parametrize("name", NAMES)
def test_legitimate_variants_agree_and_are_seen_to_run(name: str, make: Any, hugging_face: HuggingFace) -> None:
    exact = make(name, "exact", dtype="float64")
    hugging_face.trace(exact)
    variants = hugging_face.variants(exact.checkpoint)
    assert ("experts" in {v.axis for v in variants}) == (name == "mixtral")
    for variant in variants:
        request = make(name, f"{variant.axis}-{variant.name}", variant={variant.axis: variant.name})
        result = hugging_face.trace(request)
        assert result.ran[variant.axis] == variant.name
        assert 0 < max(errors(request.output, exact.output).values()) < 1e-5


def test_row_by_row_equals_together(make: Any, hugging_face: HuggingFace) -> None:
    together = make("mixtral", "together", capture="all")
    alone = make("mixtral", "alone", capture="all", variant={"batch": "row_by_row"})
    hugging_face.trace(together)
    assert hugging_face.trace(alone).ran == {"attention": "eager", "experts": "eager", "batch": "row_by_row"}
    assert max(errors(alone.output, together.output).values()) < 1e-5
    assert {path.name for path in Path(alone.output).parent.iterdir()} == {"alone", "together", "inputs.safetensors"}


@pytest.mark.parametrize("batch", ["together", "row_by_row"])
def test_feeding_a_model_its_own_trace_changes_nothing(batch: str, make: Any, hugging_face: HuggingFace) -> None:
    variant = {"batch": batch}
    plain = make("mixtral", "plain", capture="all", variant=variant)
    hugging_face.trace(plain)
    teacher_forced = make("mixtral", "teacher_forced", capture="all", variant=variant, feed=plain.output)
    hugging_face.trace(teacher_forced)
    assert max(errors(teacher_forced.output, plain.output).values()) == 0


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
    assert [name for name, error in errors(end_to_end.output, plain.output).items() if error] == [
        "decoder.1", "decoder.2", "final_norm", "logits",
    ]  # fmt: skip
    assert [name for name, error in errors(teacher_forced.output, plain.output).items() if error] == ["decoder.1"]


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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_noisier_and_has_its_dtype(dtype: str, make: Any, hugging_face: HuggingFace) -> None:
    expected, low = make("llama", "expected"), make("llama", "low", dtype=dtype)
    hugging_face.trace(expected)
    assert hugging_face.trace(low).dtype == dtype
    assert TraceReader(Path(low.output)).tensor("logits").dtype == getattr(torch, dtype)
    assert 1e-4 < errors(low.output, expected.output)["logits"] < 0.1


def test_the_model_stays_loaded_until_released(make: Any) -> None:
    with HuggingFace() as reference:
        assert reference.trace(make("llama", "first")).load_seconds > 0
        assert reference.trace(make("llama", "second", variant={"attention": "sdpa"})).load_seconds == 0
        reference.release()
        assert reference.trace(make("llama", "third")).load_seconds > 0


def test_a_checkpoint_written_anew_is_loaded_anew(make: Any, tmp_path: Path, hugging_face: HuggingFace) -> None:
    source = save_model("llama", tmp_path / "source")
    before = replace(make("llama", "before"), checkpoint=str(source))
    hugging_face.trace(before)
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    after = replace(before, output=str(tmp_path / "after"))
    hugging_face.trace(after)
    assert errors(after.output, before.output)["logits"] > 0.1


def test_arithmetic_settings_are_restored(make: Any, hugging_face: HuggingFace) -> None:
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    hugging_face.trace(make("llama", "trace"))
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction == before


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(change: str, make: Any, hugging_face: HuggingFace) -> None:
    request = make("llama", "trace")
    broken = Path(request.output).with_name("broken")
    save_model("llama", broken)
    weights = load_file(broken / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "model.layers.1.mlp.extra.weight"
        weights[name] = torch.ones(2)
    else:
        weights[name] = torch.ones(3, 4)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SubjectError) as refused:
        hugging_face.trace(replace(request, checkpoint=str(broken)))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path(request.output).exists()


def test_refusals_are_one_line(make: Any, tmp_path: Path, hugging_face: HuggingFace) -> None:
    request = make("llama", "trace")
    with pytest.raises(UnsupportedError, match="experts=eager"):
        hugging_face.trace(replace(request, variant={"experts": "eager"}))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(SubjectError, match="no_such_model") as odd:
        hugging_face.trace(replace(request, checkpoint=str(tmp_path / "odd")))
    assert "\n" not in str(odd.value)
    with pytest.raises(SubjectError, match="forward fails"):
        hugging_face.trace(make("mixtral", "grouped", dtype="float64", variant={"experts": "grouped_mm"}))


def test_ids_beyond_the_vocabulary_are_refused(make: Any, tmp_path: Path, hugging_face: HuggingFace) -> None:
    request = make("llama", "trace")
    save_file({"input_ids": torch.tensor([[1, 211]])}, tmp_path / "beyond.safetensors")
    with pytest.raises(RequestError, match="211"):
        hugging_face.trace(replace(request, inputs=str(tmp_path / "beyond.safetensors")))
