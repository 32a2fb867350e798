"""Runs a Hugging Face checkpoint through transformers: its forward pass as a trace, its backward pass as gradients.

Its variants are implementations that are all correct; they differ by numerical noise. With `dtype="float64"` everything
is computed in float64 (`float64_mode`), and padded rows run one by one.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from ci.errors import HubTestsError, SubjectError
from ci.layouts import LAYOUT_AXIS
from ci.subjects.base import ConvertResult, DType, GradientRequest, GradientResult, TraceRequest, TraceResult, Variant
from ci.subjects.forward import DTYPES, TeacherForcing, exact_arithmetic, read_inputs
from ci.subjects.hugging_face.cast_model import can_cast, read_stored_dtypes
from ci.subjects.hugging_face.errors import first_line, translate_errors
from ci.subjects.hugging_face.float64_mode import compute_float64_throughout
from ci.subjects.hugging_face.forward_trace import run_forward, run_rows
from ci.subjects.hugging_face.gradients import write_gradients
from ci.subjects.hugging_face.loading import ModelLoader, silence_loading
from ci.subjects.hugging_face.random_model import draw_weights
from ci.subjects.hugging_face.training import TrainingRun
from ci.subjects.hugging_face.variants import choose_variant, list_variants, set_implementations
from ci.subjects.memory import weight_bytes
from ci.subjects.model_cache import Key, ModelCache, checkpoint_key
from ci.subjects.trace_files import TraceWriter
from ci.subjects.written_files import list_written

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.training import TrainRequest, TrainResult


@dataclass
class HuggingFace:
    """Runs Hugging Face checkpoints. The last model stays loaded for its next trace, until `release`.

    `code` is a directory with the modelling code of models that transformers does not have: it runs in this process,
    so that only a worker in a sandbox may have one. None is for transformers' own models.
    """

    code: Path | None = None
    _cache: ModelCache[Any] = field(default_factory=ModelCache, init=False, repr=False)
    _variants: dict[Key, tuple[Variant, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def loader(self) -> ModelLoader:
        """What builds and loads the models."""
        return ModelLoader(self.code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Unload the model and return its memory to the device."""
        self._cache.release()

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the implementations that the model in `checkpoint` can run, each axis's default first."""
        with translate_errors(checkpoint, "cannot be read"):
            key = checkpoint_key(checkpoint)
            if key not in self._variants:
                self._variants[key] = list_variants(self.loader.build_without_weights(checkpoint))
            return self._variants[key]

    @compute_float64_throughout
    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass and write a trace.

        `load_seconds` is 0 where the model was loaded already.

        Raises SubjectError where the checkpoint does not load completely and exactly, or the forward fails;
        UnsupportedError for a variant the model does not have; InfrastructureError when the device is out of memory.
        """
        inputs = read_inputs(Path(request.inputs)).to(request.device)
        with translate_errors(request.checkpoint, "does not load"):
            model, load_seconds = self._load(request)
        variant = choose_variant(self.variants(request.checkpoint), request, padded=inputs.mask is not None)
        inputs.check_vocabulary(model.get_input_embeddings().num_embeddings)
        with translate_errors(request.checkpoint, "forward fails"), exact_arithmetic(), torch.inference_mode():
            set_implementations(model, variant)
            if variant["batch"] == "row_by_row":
                return run_rows(model, request, inputs, load_seconds)
            writer = TraceWriter(Path(request.output))
            return run_forward(model, request, inputs, TeacherForcing.of_request(request), writer, load_seconds)

    @compute_float64_throughout
    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run the backward pass and write a directory of gradients. Raises as `trace` does.

        The model is unloaded afterwards, because the gradients overwrite its weights.
        """
        traced = TraceRequest(request.checkpoint, request.inputs, "", request.dtype, request.device, request.variant)
        with translate_errors(request.checkpoint, "does not load"):
            model, _ = self._load(traced)
        variant = choose_variant(self.variants(traced.checkpoint), traced, padded=False)
        try:
            with translate_errors(request.checkpoint, "backward fails"), exact_arithmetic(), silence_loading():
                set_implementations(model, variant)
                return write_gradients(model, request, variant)
        finally:
            del model
            self.release()

    def describe_side(self, _: str) -> str:
        """Say which transformers runs; it is the same for any checkpoint."""
        return f"transformers {version('transformers')}"

    def runs_code_under_test(self) -> bool:
        """Return False: the code is that of the transformers installed here."""
        return False

    def resolve_config(self, checkpoint: str) -> dict[str, Any]:
        """Return config.json as transformers understands it, defaults filled in. Raises SubjectError."""
        try:
            config = self.loader.read_config(checkpoint).to_dict()
        except HubTestsError:
            raise
        except Exception as problem:  # whatever transformers raises about a config is a finding about it
            reason = first_line(problem)
            raise SubjectError(f"{Path(checkpoint) / 'config.json'}: transformers refuses it: {reason}") from None
        return {key: value for key, value in config.items() if key != "_name_or_path"}

    def write_model(self, source: str, target: str, dtype: DType, seed: int) -> ConvertResult:
        """Write a model with drawn weights at `target` (must not exist), for the config.json in `source`.

        Raises SubjectError where transformers cannot build it.
        """
        started = time.perf_counter()
        try:
            model = self.loader.build(source, dtype=torch.float32)
        except HubTestsError:
            raise
        except Exception as problem:  # the same
            reason = first_line(problem)
            raise SubjectError(f"no thin model: transformers refuses it: {reason}") from None
        draw_weights(model, seed)
        with silence_loading():
            model.to(DTYPES[dtype]).save_pretrained(target)
        for file in Path(source).iterdir():  # the config as it is, not what transformers made of it
            shutil.copyfile(file, Path(target) / file.name)
        return list_written(Path(target), started)

    @compute_float64_throughout
    def train(self, request: TrainRequest) -> TrainResult:
        """Run optimizer steps in one process and write each step's gradients. Raises as `trace` does.

        Of the request's layout only the number of documents counts. The model is unloaded afterwards.
        """
        return self._train(request, parts=False)

    @compute_float64_throughout
    def train_in_parts(self, request: TrainRequest) -> TrainResult:
        """Run the steps; write the first gradient's parts too, by document and use of tied weights."""
        return self._train(request, parts=True)

    def _train(self, request: TrainRequest, *, parts: bool) -> TrainResult:
        variant = {axis: name for axis, name in request.variant.items() if axis != LAYOUT_AXIS}
        traced = TraceRequest(request.checkpoint, request.inputs, "", request.dtype, request.device, variant)
        with translate_errors(request.checkpoint, "does not load"):
            model, _ = self._load(traced)
        variant = choose_variant(self.variants(traced.checkpoint), traced, padded=False)
        try:
            with translate_errors(request.checkpoint, "training fails"), exact_arithmetic(), silence_loading():
                set_implementations(model, variant)
                return TrainingRun(model, request, variant, parts=parts).run()
        finally:
            del model
            self.release()

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
            self._variants[content] = list_variants(model)
        return model, seconds

    def _cast(self, model: Any, request: TraceRequest) -> Any:
        """Cast a loaded model to the request's dtype, or load it where transformers builds another."""
        new = self.loader.cast(model, request)
        return self._from_pretrained(request).eval() if new is None else new

    def _from_pretrained(self, request: TraceRequest) -> Any:
        return self.loader.load(request)
