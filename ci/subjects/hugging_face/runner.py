"""Runs a Hugging Face checkpoint through transformers: its forward pass as a trace, its backward pass as gradients.

Its variants are implementations that are all correct; they differ by numerical noise. With `dtype="float64"` everything
is computed in float64 (`float64_mode`), and padded rows run one by one.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]

from ci.errors import HubTestsError, InfrastructureError, SubjectError, UnsupportedError
from ci.layouts import LAYOUT_AXIS
from ci.subjects.base import (
    ConvertResult,
    DType,
    GradientRequest,
    GradientResult,
    TraceRequest,
    TraceResult,
    Variant,
)
from ci.subjects.forward import (
    DTYPES,
    Inputs,
    TeacherForcing,
    TraceRecorder,
    exact_arithmetic,
    measure_cost,
    read_inputs,
)
from ci.subjects.hugging_face.cast_model import can_cast, has_same_parts, move_weights, read_stored_dtypes
from ci.subjects.hugging_face.float64_mode import compute_float64_throughout
from ci.subjects.hugging_face.gradients import write_gradients
from ci.subjects.hugging_face.hooks import ForwardHooks, record_heads
from ci.subjects.hugging_face.model_arguments import collect_arguments
from ci.subjects.hugging_face.model_code import ModelCode, compare_with_stored, load_model_code, overrides_loading
from ci.subjects.hugging_face.random_model import draw_weights
from ci.subjects.hugging_face.structure import (
    classify_mixer,
    find_decoder_blocks,
    find_mixer,
    has_experts,
)
from ci.subjects.hugging_face.training import TrainingRun
from ci.subjects.hugging_face.watched_functions import find_own_modules
from ci.subjects.memory import weight_bytes
from ci.subjects.model_cache import Key, ModelCache, checkpoint_key
from ci.subjects.trace_files import TraceWriter
from ci.subjects.trace_rows import BatchTraceWriter, RowTraceWriter
from ci.subjects.written_files import list_written
from ci.tensor_names import LOGITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.subjects.training import TrainRequest, TrainResult

ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
BATCH = ("together", "row_by_row")


@dataclass
class HuggingFace:
    """Runs Hugging Face checkpoints. The last model stays loaded for its next trace, until `release`.

    `code` is a directory with the modelling code of models that transformers does not have: it runs in this process,
    so that only a worker in a sandbox may have one. None is for transformers' own models.
    """

    code: Path | None = None
    _cache: ModelCache[Any] = field(default_factory=ModelCache, init=False, repr=False)
    _variants: dict[Key, tuple[Variant, ...]] = field(default_factory=dict, init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Unload the model and return its memory to the device."""
        self._cache.release()

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the implementations that the model in `checkpoint` can run, each axis's default first."""
        with _translate_errors(checkpoint, "cannot be read"):
            key = checkpoint_key(checkpoint)
            if key not in self._variants:
                self._variants[key] = _list_variants(self._build_without_weights(checkpoint))
            return self._variants[key]

    @compute_float64_throughout
    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass and write a trace.

        `load_seconds` is 0 where the model was loaded already.

        Raises SubjectError where the checkpoint does not load completely and exactly, or the forward fails;
        UnsupportedError for a variant the model does not have; InfrastructureError when the device is out of memory.
        """
        inputs = read_inputs(Path(request.inputs)).to(request.device)
        with _translate_errors(request.checkpoint, "does not load"):
            model, load_seconds = self._load(request)
        variant = self._choose_variant(request, padded=inputs.mask is not None)
        inputs.check_vocabulary(model.get_input_embeddings().num_embeddings)
        with _translate_errors(request.checkpoint, "forward fails"), exact_arithmetic(), torch.inference_mode():
            _set_implementations(model, variant)
            if variant["batch"] == "row_by_row":
                return _trace_rows(model, request, inputs, load_seconds)
            writer = TraceWriter(Path(request.output))
            return _trace(model, request, inputs, TeacherForcing.of_request(request), writer, load_seconds)

    @compute_float64_throughout
    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run the backward pass and write a directory of gradients. Raises as `trace` does.

        The model is unloaded afterwards, because the gradients overwrite its weights.
        """
        traced = TraceRequest(request.checkpoint, request.inputs, "", request.dtype, request.device, request.variant)
        with _translate_errors(request.checkpoint, "does not load"):
            model, _ = self._load(traced)
        variant = self._choose_variant(traced, padded=False)
        try:
            with _translate_errors(request.checkpoint, "backward fails"), exact_arithmetic(), _silence_loading():
                _set_implementations(model, variant)
                return write_gradients(model, request, variant)
        finally:
            del model
            self.release()

    def describe_side(self, _: str) -> str:
        """Say which transformers runs; it is the same for any checkpoint."""
        return f"transformers {version('transformers')}"

    def resolve_config(self, checkpoint: str) -> dict[str, Any]:
        """Return config.json as transformers understands it, defaults filled in. Raises SubjectError."""
        try:
            config = self._read_config(checkpoint).to_dict()
        except HubTestsError:
            raise
        except Exception as problem:  # whatever transformers raises about a config is a finding about it
            reason = " ".join(str(problem).split())[:300]
            raise SubjectError(f"{Path(checkpoint) / 'config.json'}: transformers refuses it: {reason}") from None
        return {key: value for key, value in config.items() if key != "_name_or_path"}

    def write_model(self, source: str, target: str, dtype: DType, seed: int) -> ConvertResult:
        """Write a model with drawn weights at `target` (must not exist), for the config.json in `source`.

        Raises SubjectError where transformers cannot build it.
        """
        started = time.perf_counter()
        try:
            model = self._from_config(source, dtype=torch.float32)
        except HubTestsError:
            raise
        except Exception as problem:  # the same
            reason = " ".join(str(problem).split())[:300]
            raise SubjectError(f"no thin model: transformers refuses it: {reason}") from None
        draw_weights(model, seed)
        with _silence_loading():
            model.to(DTYPES[dtype]).save_pretrained(target)
        for file in Path(source).iterdir():  # the config as it is, not what transformers made of it
            shutil.copyfile(file, Path(target) / file.name)
        return list_written(Path(target), started)

    def load_code(self, checkpoint: str) -> ModelCode | None:
        """Return the classes of a model that brings its own code, None where transformers has it."""
        return load_model_code(Path(checkpoint), self.code) if self.code else None

    @compute_float64_throughout
    def train(self, request: TrainRequest) -> TrainResult:
        """Run optimizer steps in one process and write each step's gradients. Raises as `trace` does.

        Of the request's layout only the number of documents counts. The model is unloaded afterwards.
        """
        return self._train(request, parts=False)

    @compute_float64_throughout
    def train_in_parts(self, request: TrainRequest) -> TrainResult:
        """Run the steps, and write the parts of the first gradient too, by document and use of tied weights."""
        return self._train(request, parts=True)

    def _train(self, request: TrainRequest, *, parts: bool) -> TrainResult:
        variant = {axis: name for axis, name in request.variant.items() if axis != LAYOUT_AXIS}
        traced = TraceRequest(request.checkpoint, request.inputs, "", request.dtype, request.device, variant)
        with _translate_errors(request.checkpoint, "does not load"):
            model, _ = self._load(traced)
        variant = self._choose_variant(traced, padded=False)
        try:
            with _translate_errors(request.checkpoint, "training fails"), exact_arithmetic(), _silence_loading():
                _set_implementations(model, variant)
                return TrainingRun(model, request, variant, parts=parts).run()
        finally:
            del model
            self.release()

    def _build_without_weights(self, checkpoint: str) -> Any:
        with torch.device("meta"):
            return self._from_config(checkpoint)

    def _read_config(self, checkpoint: str) -> Any:
        from transformers import AutoConfig

        if code := self.load_code(checkpoint):
            return code.config_class.from_pretrained(checkpoint, local_files_only=True)
        # Not left out: transformers would ask on the terminal whether the directory's own code may run.
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)

    def _from_config(self, checkpoint: str, **settings: Any) -> Any:
        config = self._read_config(checkpoint)
        if code := self.load_code(checkpoint):
            return code.model_class._from_config(config, **settings)
        return choose_auto_class(config).from_config(config, trust_remote_code=False, **settings)

    def _choose_variant(self, request: TraceRequest, *, padded: bool) -> dict[str, str]:
        """Return axis → name for every axis of the model: the request's, else the default.

        In float64 padded rows run alone unless asked otherwise: eager attention casts its mask's float64 minimum to
        float32 before the softmax, where it is -inf; a row of padding becomes NaN, which spreads.
        """
        known = self.variants(request.checkpoint)
        for axis, name in request.variant.items():
            if not any((v.axis, v.name) == (axis, name) for v in known):
                raise UnsupportedError(f"Hugging Face, {request.checkpoint}: this model has no variant {axis}={name}")
        defaults = {v.axis: v.name for v in known if v.default}
        if padded and request.dtype == "float64":
            defaults["batch"] = "row_by_row"
        return defaults | dict(request.variant)

    def _load(self, request: TraceRequest) -> tuple[Any, float]:
        """Return the model and the seconds that loading took; keeps the list of its variants."""
        content = checkpoint_key(request.checkpoint)
        key = (*content, request.dtype, request.device)
        stored = read_stored_dtypes(Path(request.checkpoint))

        def reuse(other: Key, loaded: Any) -> Callable[[], Any] | None:
            *same, held, device = other
            if self.code or (tuple(same), device) != (content, request.device) or not can_cast(loaded, held, stored):  # type: ignore[arg-type]
                return None
            return lambda: self._cast(loaded, request)

        model, seconds = self._cache.get(
            key,
            lambda: self._from_pretrained(request).eval(),
            device=request.device,
            size=weight_bytes(Path(request.checkpoint), DTYPES[request.dtype].itemsize),
            reuse=reuse,
        )
        if content not in self._variants:
            self._variants[content] = _list_variants(model)
        return model, seconds

    def _cast(self, model: Any, request: TraceRequest) -> Any:
        """Make the model of the request's dtype from a loaded one, or load it where transformers builds another one."""
        with _silence_loading(), init_empty_weights(include_buffers=False):
            new = self._from_config(request.checkpoint, dtype=DTYPES[request.dtype], attn_implementation="eager")
        if not has_same_parts(model, new):
            return self._from_pretrained(request).eval()
        move_weights(model, new, request.dtype)
        return new.eval()

    def _from_pretrained(self, request: TraceRequest) -> Any:
        code = self.load_code(request.checkpoint)
        settings: dict[str, Any] = {
            "dtype": DTYPES[request.dtype],
            "attn_implementation": "eager",
            "local_files_only": True,
            "ignore_mismatched_sizes": True,  # the loading info then names them
            "device_map": None if request.device == "cpu" else {"": request.device},  # load directly onto the device
        }
        with _silence_loading():
            if code and overrides_loading(code.model_class):
                model = code.model_class.from_pretrained(request.checkpoint, **settings)
                info = compare_with_stored(model, Path(request.checkpoint))
            else:
                auto = code.model_class if code else choose_auto_class(self._read_config(request.checkpoint))
                settings |= {} if code else {"trust_remote_code": False}
                model, info = auto.from_pretrained(request.checkpoint, output_loading_info=True, **settings)
        problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
        if problems:
            raise SubjectError(f"{request.checkpoint} does not load into {type(model).__name__} exactly: {problems}")
        return model


def choose_auto_class(config: Any) -> Any:
    """Return transformers' class that builds the model of a configuration, with its vision tower if it has one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForCausalLM if getattr(config, "vision_config", None) is None else AutoModelForImageTextToText


def _list_variants(model: Any) -> tuple[Variant, ...]:
    axes = {"attention": ATTENTION, "experts": EXPERTS, "batch": BATCH}
    if not has_experts(model):
        del axes["experts"]
    if find_own_modules(model):
        axes |= {"attention": _find_own_attention(model), "batch": _find_own_batch(model)}
    return tuple(Variant(axis, name, default=name == names[0]) for axis, names in axes.items() for name in names)


def _find_own_attention(model: Any) -> tuple[str, ...]:
    """Return the attention implementations that a model's own code can run.

    Code from before transformers' dispatch has a class for each, and builds one of them.
    """
    built = {type(find_mixer(block)).__name__ for block in find_decoder_blocks(model)}
    return ("sdpa",) if any("Sdpa" in name for name in built) else ATTENTION


def _find_own_batch(model: Any) -> tuple[str, ...]:
    """Return how a model's own code can run padded rows: a recurrence, or attention both ways, reads the padding."""
    mixers = [find_mixer(block) for block in find_decoder_blocks(model)]
    causal = all(classify_mixer(mixer) == "attention" and getattr(mixer, "is_causal", False) for mixer in mixers)
    return BATCH if causal else ("row_by_row",)


def _set_implementations(model: Any, variant: dict[str, str]) -> None:
    if find_own_modules(model):  # transformers looks for its own dispatch in the code, and changes nothing without
        for config in {id(c): c for part in model.modules() if (c := getattr(part, "config", None))}.values():
            config._attn_implementation = variant["attention"]
    else:
        model.set_attn_implementation(variant["attention"])
    if "experts" in variant:
        model.set_experts_implementation(variant["experts"])


def _trace(
    model: Any,
    request: TraceRequest,
    inputs: Inputs,
    feed: TeacherForcing | None,
    writer: TraceWriter | RowTraceWriter,
    load_seconds: float = 0.0,
) -> TraceResult:
    recorder = TraceRecorder(writer, inputs, DTYPES[request.dtype])
    hooks = ForwardHooks(model, recorder, capture_all=request.capture == "all", feed=feed)
    with measure_cost(request.device) as cost, hooks.installed():
        kwargs: dict[str, Any] = (
            {} if inputs.mask is None else {"attention_mask": inputs.mask, "position_ids": inputs.position_ids()}
        )
        kwargs |= collect_arguments(model, inputs.images, DTYPES[request.dtype])
        logits = model(input_ids=inputs.ids, use_cache=False, **kwargs).logits
    seconds = cost.seconds - recorder.seconds
    record_heads(recorder, LOGITS, logits, copy=False)
    recorder.flush()
    expected = hooks.list_expected() if hooks.capture_all else ()
    written = set(recorder.written)
    return writer.finish(
        ran={**hooks.ran, "batch": "together"},
        dtype=request.dtype,
        device=request.device,
        seconds=seconds,
        load_seconds=load_seconds,
        peak_device_bytes=cost.peak_device_bytes,
        not_captured=tuple(name for name in expected if name not in written),
    )


def _trace_rows(model: Any, request: TraceRequest, inputs: Inputs, load_seconds: float) -> TraceResult:
    """Run each row alone and unpadded, and write one trace of the batch."""
    batch, length = inputs.ids.shape
    writer, feed = (
        BatchTraceWriter(Path(request.output), batch=batch, length=length),
        TeacherForcing.of_request(request),
    )
    results = []
    for row in range(batch):
        padding = inputs.count_padding(row)
        row_feed = feed and feed.select_row(row, padding)
        results.append(_trace(model, request, inputs.select_row(row), row_feed, writer.row_writer(row, padding)))
    return writer.finish(
        ran={**results[0].ran, "batch": "row_by_row"},
        dtype=request.dtype,
        device=request.device,
        seconds=sum(result.seconds for result in results),
        load_seconds=load_seconds,
        peak_device_bytes=max(result.peak_device_bytes for result in results),
        not_captured=results[0].not_captured,
    )


@contextmanager
def _translate_errors(checkpoint: str, what: str) -> Iterator[None]:
    """Turn an exception of transformers into an error of one line."""
    try:
        yield
    except HubTestsError:
        raise
    except torch.cuda.OutOfMemoryError as problem:
        raise InfrastructureError(
            f"Hugging Face, {checkpoint}: out of memory on the device; reduce batch_size, sequence_length or layers "
            f"({_first_line(problem)})"
        ) from problem
    except Exception as problem:
        reason = f"{type(problem).__name__}: {_first_line(problem)}"
        raise SubjectError(f"Hugging Face, {checkpoint} {what}: {reason}") from problem


def _first_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:300]


@contextmanager
def _silence_loading() -> Iterator[None]:
    """Switch the progress bar and the loading report off: the loading info is checked here."""
    from transformers.utils import logging

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
