"""Against the real Fast-LLM where there is one (see conftest.py); refusals that need none run everywhere."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.inputs import build_cases, read_requirements
from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.models import TestParams
from ci.subjects.base import ConvertRequest, ExportRequest, TraceRequest
from ci.subjects.failure import SubjectOutOfMemoryError
from ci.subjects.fast_llm.subject import FastLLMSubject
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.tiny import relative_error, save_inputs, save_model, trace_request
from tests.standin.models import build
from tests.standin.recipes import PIXTRAL, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.subjects.base import Subject

NAMES = ["llama", "mistral", "mixtral", "qwen2"]


class TinyModels:
    """Converted tiny models, their inputs, and traces of both sides."""

    def __init__(self, root: Path, subject: Subject, reference: HuggingFace) -> None:
        self.root, self.subject, self.reference = root, subject, reference
        self.inputs = save_inputs(root / "inputs.safetensors", padding=(0, 5))

    def source(self, name: str) -> Path:
        return path if (path := self.root / name).exists() else save_model(name, path)

    def converted(self, name: str) -> Path:
        target = self.root / f"{name}.fast_llm"
        if not target.exists():
            self.subject.convert(ConvertRequest(str(self.source(name)), str(target), name))
        return target

    def expected(self, name: str, dtype: str = "float64") -> TraceReader:
        path = self.root / f"{name}.{dtype}"
        if not path.exists():
            self.reference.trace(trace_request(self.source(name), self.inputs, path, dtype=dtype, capture="all"))
        return TraceReader(path)

    def request(self, name: str, output: Path, **rest: Any) -> TraceRequest:
        return trace_request(self.converted(name), self.inputs, output, **rest)


@pytest.fixture(scope="module")
def tiny_models(fast_llm: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModels]:
    with HuggingFace() as reference:
        yield TinyModels(tmp_path_factory.mktemp("tiny_models"), fast_llm, reference)


def errors(trace: Path, expected: TraceReader) -> dict[str, float]:
    reader = TraceReader(trace)
    assert list(reader) == list(expected)
    return {name: relative_error(reader.tensor(name), expected.tensor(name)) for name in reader}


def test_describes_itself(fast_llm: Subject) -> None:
    who = fast_llm.describe()
    assert who.subject == "fast_llm"
    assert who.version
    assert {"torch", "transformers"} <= set(who.libraries)
    assert set(NAMES) <= set(who.formats)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_as_right_as_hugging_face(
    name: str, dtype: str, tiny_models: TinyModels, tmp_path: Path
) -> None:
    expected, same = tiny_models.expected(name), tiny_models.expected(name, dtype)
    result = tiny_models.subject.trace(tiny_models.request(name, tmp_path / "trace", dtype=dtype, capture="all"))
    assert result.not_captured == ()
    ours, theirs = errors(tmp_path / "trace", expected), errors(same.path, expected)
    floor, factor = (3e-8, 10) if dtype == "float32" else (0.0, 2)
    too_large = {key: (ours[key], theirs[key]) for key in ours if ours[key] > factor * max(theirs[key], floor)}
    assert not too_large


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_bit_exact(name: str, tiny_models: TinyModels, tmp_path: Path) -> None:
    tiny_models.subject.export(ExportRequest(str(tiny_models.converted(name)), str(tmp_path / "back"), name))
    before, after = (
        {key: tensor for file in path.glob("*.safetensors") for key, tensor in load_file(file).items()}
        for path in (tiny_models.source(name), tmp_path / "back")
    )
    assert before.keys() == after.keys()
    assert not [key for key in before if not torch.equal(before[key], after[key])]


def test_exports_in_the_asked_dtype(tiny_models: TinyModels, tmp_path: Path) -> None:
    tiny_models.subject.export(
        ExportRequest(str(tiny_models.converted("llama")), str(tmp_path / "back"), "llama", dtype="bfloat16")
    )
    assert {tensor.dtype for tensor in load_file(tmp_path / "back" / "model_0.safetensors").values()} == {
        torch.bfloat16
    }


def test_variants_say_what_they_need_and_what_ran(tiny_models: TinyModels, tmp_path: Path) -> None:
    variants = tiny_models.subject.variants(str(tiny_models.converted("mixtral")))
    assert [(v.axis, v.name) for v in variants if v.default] == [("attention", "sdpa_dense"), ("moe", "looped")]
    for variant in variants:
        request = tiny_models.request("mixtral", tmp_path / variant.name, variant={variant.axis: variant.name})
        if variant.axis == "attention" and variant.needs:
            with pytest.raises(UnsupportedError, match=variant.needs):
                tiny_models.subject.trace(request)
            continue
        ran = tiny_models.subject.trace(request).ran[variant.axis]
        assert ran == ("looped" if variant.needs else variant.name)  # dropless falls back and has to say so
    assert "moe" not in {v.axis for v in tiny_models.subject.variants(str(tiny_models.converted("llama")))}
    with pytest.raises(UnsupportedError, match="without experts"):
        tiny_models.subject.trace(tiny_models.request("llama", tmp_path / "dense", variant={"moe": "looped"}))


@pytest.mark.parametrize("name", ["mistral", "mixtral"])
def test_teacher_forced_every_block_is_right_by_itself(name: str, tiny_models: TinyModels, tmp_path: Path) -> None:
    expected = tiny_models.expected(name)
    tiny_models.subject.trace(
        tiny_models.request(name, tmp_path / "teacher_forced", capture="all", feed=str(expected.path))
    )
    assert max(errors(tmp_path / "teacher_forced", expected).values()) < 2e-6


def test_teacher_forcing_isolates_a_broken_block(tiny_models: TinyModels, tmp_path: Path) -> None:
    source = save_model("llama", tmp_path / "broken")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    tiny_models.subject.convert(ConvertRequest(str(source), str(tmp_path / "converted"), "llama"))
    request = trace_request(tmp_path / "converted", tiny_models.inputs, tmp_path / "teacher_forced", capture="all")
    expected = tiny_models.expected("llama")
    tiny_models.subject.trace(replace(request, feed=str(expected.path)))
    assert [name for name, error in errors(tmp_path / "teacher_forced", expected).items() if error > 1e-4] == [
        "decoder.1.mlp", "decoder.1",
    ]  # fmt: skip


def test_one_row_needs_no_second_forward(tiny_models: TinyModels, tmp_path: Path) -> None:
    inputs = save_inputs(tmp_path / "one.safetensors", padding=(0,))
    expected, ours = (
        replace(tiny_models.request("llama", tmp_path / side), inputs=str(inputs)) for side in ("expected", "ours")
    )
    tiny_models.reference.trace(replace(expected, checkpoint=str(tiny_models.source("llama")), capture="all"))
    tiny_models.subject.trace(replace(ours, capture="all"))
    assert max(errors(tmp_path / "ours", TraceReader(tmp_path / "expected")).values()) < 2e-6


def broken(kind: str, path: Path) -> tuple[Path, str]:
    """A model that Fast-LLM is known to refuse, and its format."""
    if kind == "head_dim null":
        source = save_model("mixtral", path)
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, "head_dim": None}))
        return source, "mixtral"
    if kind == "yarn":
        yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
        return save_model("qwen2", path, rope_parameters=yarn), "qwen2"
    if kind == "linear":
        rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
        return save_model("llama", path, rope_parameters=rope), "llama"
    source = save_model("llama", path, tie_word_embeddings=True)
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    return source, "llama"


@pytest.mark.parametrize(
    ("kind", "says"),
    [("head_dim null", "head_size"), ("yarn", "attention_factor"), ("linear", "linear"), ("tied", r"lm_head\.weight")],
)
def test_refusals_are_one_line_with_fast_llms_reason(kind: str, says: str, fast_llm: Subject, tmp_path: Path) -> None:
    source, checkpoint_format = broken(kind, tmp_path / "source")
    with pytest.raises(SubjectError, match=says) as refusal:
        fast_llm.convert(ConvertRequest(str(source), str(tmp_path / "target"), checkpoint_format))
    assert refusal.value.failure == ("unsupported" if kind == "linear" else "error")
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["source"]


def test_unknown_names_are_refused(fast_llm: Subject, tiny_models: TinyModels, tmp_path: Path) -> None:
    source = str(tiny_models.source("llama"))
    with pytest.raises(UnsupportedError, match=r"'lama'; it knows .*llama"):
        fast_llm.convert(ConvertRequest(source, str(tmp_path / "target"), "lama"))
    with pytest.raises(UnsupportedError, match="'bert'"):
        fast_llm.convert(ConvertRequest(source, str(tmp_path / "target"), "llama", model_config="bert"))
    with pytest.raises(UnsupportedError, match="attention=fast"):
        fast_llm.trace(tiny_models.request("llama", tmp_path / "trace", variant={"attention": "fast"}))
    with pytest.raises(SubjectError, match=r"metadata\.yaml"):  # a worker blames nobody but its subject
        fast_llm.variants(source)
    with pytest.raises(RequestError, match="exists"):
        fast_llm.convert(ConvertRequest(source, str(tmp_path), "llama"))


@pytest.mark.skipif(importlib.util.find_spec("fast_llm") is not None, reason="Fast-LLM is importable here")
def test_without_fast_llm_the_advice_is_another_interpreter() -> None:
    with pytest.raises(RequestError, match="--subject-python"):
        FastLLMSubject().describe()


def test_another_gpu_than_the_first_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="CUDA_VISIBLE_DEVICES"):
        FastLLMSubject().trace(TraceRequest("checkpoint", "inputs", "output", device="cuda:1"))


@pytest.mark.parametrize("kept", [0, 1])
def test_a_model_that_does_not_fit_beside_the_kept_ones_runs_without_them(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, calls = FastLLMSubject(), []

    def trace_once(self: FastLLMSubject, request: TraceRequest) -> str:
        calls.append(request)
        if len(calls) == 1:
            self.release()
            raise SubjectOutOfMemoryError("23.58 GiB")
        return "traced"

    monkeypatch.setattr(FastLLMSubject, "_trace_once", trace_once)
    subject._cache._models.update({("other",): object()} if kept else {})
    request = TraceRequest("checkpoint", "inputs", str(tmp_path / "output"))
    if kept:
        assert str(subject.trace(request)) == "traced"
    else:
        with pytest.raises(SubjectOutOfMemoryError):
            subject.trace(request)
    assert len(calls) == kept + 1


def test_a_model_that_sees_is_right_in_every_image_token(fast_llm: Subject, tmp_path: Path) -> None:
    """The projector's activation is the one that Fast-LLM has; with `gelu` it computes another."""
    changes = {**PIXTRAL, "projector_hidden_act": "gelu_pytorch_tanh", "vision_feature_layer": -1}
    recipe = Recipe("stand-in/sees", "pixtral-12b", changes, dtype="float32")
    model = build(recipe, tmp_path / "model")
    cases = build_cases(read_requirements(recipe.config), TestParams(1, 48), text=None, free_bytes=10**10)
    batch = cases[0]
    assert batch.images is not None
    assert batch.mask is not None
    tensors = {"input_ids": batch.ids, "attention_mask": batch.mask, **batch.images.to_tensors()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "inputs.safetensors")
    fast_llm.convert(ConvertRequest(str(model), str(tmp_path / "converted"), "llava", "multimodal"))
    inputs = tmp_path / "inputs.safetensors"
    with HuggingFace() as side:
        side.trace(trace_request(model, inputs, tmp_path / "expected", dtype="float64", capture="all"))
    fast_llm.trace(trace_request(tmp_path / "converted", inputs, tmp_path / "actual", capture="all"))
    measured = errors(tmp_path / "actual", TraceReader(tmp_path / "expected"))
    assert {"embeddings", "logits"} <= set(measured)
    assert "vision_encoder.encoder.1.mixer.query" in measured, "both sides have a name for it, so it is compared"
    assert max(measured.values()) < 2e-5, max(measured, key=lambda name: measured[name])
    changed = tmp_path / "expected" / "vision_encoder.encoder.0.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(changed).items()}, changed)
    forced = trace_request(tmp_path / "converted", inputs, tmp_path / "forced", capture="all")
    fast_llm.trace(replace(forced, feed=str(tmp_path / "expected")))
    fed = errors(tmp_path / "forced", TraceReader(tmp_path / "expected"))
    wrong = {name for name, error in fed.items() if error > 2e-5 and not name.startswith("vision_encoder.encoder.0")}
    assert wrong, "block 1 reads what it was fed"
    assert all(name.startswith("vision_encoder.encoder.1") for name in wrong), "and so does what comes after it"
