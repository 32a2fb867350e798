"""The adapter to the real Fast-LLM, through its public API: https://github.com/ServiceNow/Fast-LLM

Fast-LLM is imported when it is first needed, because it runs in an interpreter of its own (Python 3.12 or newer).
On the CPU its `torch.compile`d functions run eagerly, because compiling them takes up to half a minute for each model;
`variant={"compile": "inductor"}` compiles them there too. On CUDA they are compiled, as in production.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.layouts import LAYOUT_AXIS
from ci.subjects.base import (
    ConvertRequest,
    ConvertResult,
    Description,
    ExportRequest,
    GradientRequest,
    GradientResult,
    TraceRequest,
    TraceResult,
    Variant,
)
from ci.subjects.compile_time import count_compilation
from ci.subjects.failure import SubjectOutOfMemoryError
from ci.subjects.fast_llm.config import (
    choose_compiler,
    compile_stance,
    find_model_class,
    list_variants,
    loops_over_experts,
    make_variant_updates,
    read_model_config,
)
from ci.subjects.fast_llm.errors import translate_errors
from ci.subjects.model_cache import Key, ModelCache, checkpoint_key
from ci.subjects.provenance import find_commit, installed_versions, python_version
from ci.tensor_names import BLOCK_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.fast_llm.weights import Weights
    from ci.subjects.forward import Inputs, TeacherForcing
    from ci.subjects.training import TrainRequest, TrainResult

TRAINING_COPIES = 3
"""Mixtral at two layers, 23.6 GiB in float32, takes 70 GiB in training mode on an H100."""
LATE_MODULES = (
    "fast_llm.layers.attention.attention",
    "fast_llm.layers.block.sequence",
    "fast_llm.layers.common.normalization.normalization",
    "fast_llm.layers.decoder.mlp.mixture_of_experts",
    "fast_llm.layers.language_model.head",
    "fast_llm.layers.language_model.loss.monolithic",
    "fast_llm.layers.language_model.multi_token_prediction",
    "ci.subjects.fast_llm.hooks",
)
"""What is imported with the first model, not with Fast-LLM: 0.6 s of processor."""
LIBRARIES = ("torch", "transformers", "safetensors", "triton", "flash-attn", "numpy")


@dataclass(frozen=True)
class FastLLMSubject:
    """Fast-LLM behind the subject protocol. Its exceptions become errors of one line that end with the place.

    The last traced model stays loaded until `release`; another variant or dtype takes its weights.
    """

    _cache: ModelCache[Any] = field(default_factory=ModelCache, init=False, repr=False, compare=False)

    def prepare(self) -> None:
        """Import Fast-LLM with its model, and with it torch and transformers."""
        with translate_errors("import"):
            model = find_model_class("gpt")
            model.get_model_class()
            model.get_huggingface_model_for_causal_lm_class()

    def prepare_device(self, device: str) -> None:
        """Import what Fast-LLM imports with its first model, and start CUDA."""
        from ci.subjects.memory import allocate_cublas_workspace

        with translate_errors("import"):
            for name in LATE_MODULES:
                with suppress(ModuleNotFoundError):  # another version of Fast-LLM has other modules
                    import_module(name)
            allocate_cublas_workspace(device)

    def describe(self) -> Description:
        """Return version, commit of the checkout it is imported from, libraries, and the formats it converts."""
        with translate_errors("import"):
            import fast_llm

            formats = [f for name in ("gpt", "multimodal") for f in find_model_class(name).checkpoint_formats]
            return Description(
                subject="fast_llm",
                version=fast_llm.__version__,
                commit=find_commit(Path(fast_llm.__file__).parent, "fast_llm"),
                python=python_version(),
                libraries=installed_versions(LIBRARIES),
                formats=tuple(dict.fromkeys(format_.name for format_ in formats)),
            )

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the MoE and attention implementations; the default is what `auto` means here for float32."""
        with translate_errors(f"variants of {checkpoint}"):
            return list_variants(read_model_config(Path(checkpoint)))

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Import a Hugging Face directory into Fast-LLM's own format, on the CPU."""
        from ci.subjects.fast_llm.conversion import import_checkpoint

        return import_checkpoint(request)

    def export(self, request: ExportRequest) -> ConvertResult:
        """Export a Fast-LLM checkpoint to a Hugging Face directory in `request.dtype`, on the CPU."""
        from ci.subjects.fast_llm.conversion import export_checkpoint

        return export_checkpoint(request)

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass in inference phase; `ran` is what the model's blocks really use.

        Where the device is too small beside the models that were kept, it runs once more without them.
        """
        if LAYOUT_AXIS in request.variant:
            return self._trace_in_layout(request)
        if request.device not in ("cpu", "cuda", "cuda:0"):
            raise UnsupportedError(
                f"Fast-LLM runs on the first visible GPU, not on {request.device}: set CUDA_VISIBLE_DEVICES"
            )
        kept = self._cache.count
        try:
            return self._trace_once(request)
        except SubjectOutOfMemoryError:
            if not kept:
                raise
        shutil.rmtree(request.output, ignore_errors=True)
        return self._trace_once(request)  # the models that were kept are gone: what needs all the memory has it

    def _trace_once(self, request: TraceRequest) -> TraceResult:
        from ci.subjects.forward import exact_arithmetic

        try:
            with (
                translate_errors(f"trace of {request.checkpoint}"),
                exact_arithmetic(),
                compile_stance(choose_compiler(request)),
            ):
                return _trace(request, self._cache)
        except BaseException:
            self.release()  # a model after a failed forward pass is not used again
            raise

    def _trace_in_layout(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass on the ranks of a layout."""
        from ci.subjects.fast_llm.layout_trace import run_layout_trace

        self.release()
        self.prepare()  # before the ranks fork: each of them would import for itself
        return run_layout_trace(request)

    def release(self) -> None:
        """Unload the model."""
        self._cache.release()

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run one training step and write its gradients under Hugging Face's names."""
        from ci.subjects.fast_llm.gradients import make_trace_request, run_gradients
        from ci.subjects.forward import exact_arithmetic

        self.release()
        with (
            translate_errors(f"gradients of {request.checkpoint}"),
            exact_arithmetic(),
            compile_stance(choose_compiler(make_trace_request(request))),
        ):
            return run_gradients(request)

    def train(self, request: TrainRequest) -> TrainResult:
        """Run training steps in the request's layout, each rank a process. Raises UnsupportedError, SubjectError."""
        from ci.subjects.fast_llm.training import run_training

        self.release()
        self.prepare()  # before the ranks fork: each of them would import for itself
        return run_training(request)


def _trace(request: TraceRequest, cache: ModelCache[Any]) -> TraceResult:
    import torch

    from ci.subjects.fast_llm.weights import take_weights
    from ci.subjects.forward import DTYPES, TeacherForcing, read_inputs
    from ci.subjects.memory import read_stored_itemsize, weight_bytes

    inputs = read_inputs(Path(request.inputs)).to(request.device)
    checkpoint, itemsize = Path(request.checkpoint), DTYPES[request.dtype].itemsize
    same = (*checkpoint_key(request.checkpoint), request.device)

    def reuse(other: Key, loaded: Any) -> Callable[[], Any] | None:
        if other[: len(same)] != same:
            return None
        return partial(_load, request, take_weights(loaded))

    model, load_seconds = cache.get(
        (*same, request.dtype, tuple(sorted(request.variant.items()))),
        lambda: _load(request),
        device=request.device,
        size=_count_copies(request) * weight_bytes(checkpoint, itemsize, stored=read_stored_itemsize(checkpoint)),
        reuse=reuse,
    )
    inputs.check_vocabulary(model.config.fast_llm_config.base_model.embeddings.vocab_size)
    feed = TeacherForcing.of_request(request)
    operations = frozenset(BLOCK_OPERATIONS) if request.capture == "all" else frozenset()
    with torch.inference_mode():
        return _ForwardRun(model, request, load_seconds).write_trace(inputs, feed, operations)


def _count_copies(request: TraceRequest) -> int:
    """Count the copies of the weights that the model holds: in training mode it has room for gradients too."""
    return TRAINING_COPIES if loops_over_experts(request, read_model_config(Path(request.checkpoint))) else 1


@dataclass(frozen=True)
class _ForwardRun:
    """A loaded model and the request it was loaded for."""

    model: Any
    request: TraceRequest
    load_seconds: float

    def write_trace(self, inputs: Inputs, feed: TeacherForcing | None, operations: frozenset[str]) -> TraceResult:
        """Run the forward pass of `inputs` and write the requested trace."""
        from fast_llm.layers.attention.config import AttentionKwargs

        from ci.subjects.fast_llm.hooks import ForwardHooks, read_implementations
        from ci.subjects.forward import DTYPES, TraceRecorder, measure_cost
        from ci.subjects.trace_files import TraceWriter

        request = self.request
        recorder = TraceRecorder(writer := TraceWriter(Path(request.output)), inputs, DTYPES[request.dtype])
        hooks = ForwardHooks(self.model, recorder, operations, feed, AttentionKwargs.rotary_freq)
        with measure_cost(request.device) as cost, count_compilation() as compiled, hooks.installed():
            output = self.model(
                inputs.ids,
                attention_mask=inputs.mask,
                **(inputs.images.to_arguments(DTYPES["float32"]) if inputs.images else {}),
                use_cache=False,
                output_hidden_states=hooks.hidden_state_patterns(),
                **({"return_all_prediction_heads": True} if len(hooks.final_norms) > 1 else {}),  # text models only
                return_dict=True,
            )
        seconds = cost.seconds - recorder.seconds
        hooks.record_heads(output.hidden_states, output.logits)
        recorder.flush()
        written = set(recorder.written)
        return writer.finish(
            ran={**read_implementations(hooks.blocks), "compile": choose_compiler(request)},
            dtype=request.dtype,
            device=request.device,
            seconds=seconds,
            load_seconds=self.load_seconds,
            peak_device_bytes=cost.peak_device_bytes,
            compile_seconds=compiled.seconds,
            not_captured=tuple(name for name in hooks.list_expected() if name not in written),
        )


def _load(request: TraceRequest, weights: Weights | None = None) -> Any:
    """Load the checkpoint as Fast-LLM's Hugging Face wrapper, with the request's variant set in each block.

    Fast-LLM builds the model anew in any case. Where `weights` of another variant fit, it reads no checkpoint.
    """
    from fast_llm.engine.checkpoint.config import CheckpointLoadConfig, FastLLMCheckpointFormat
    from fast_llm.engine.multi_stage.config import StageMode

    from ci.subjects.fast_llm.weights import make_format

    path = Path(request.checkpoint)
    config = read_model_config(path)
    updates = {
        ("distributed", "use_cuda"): request.device != "cpu",
        ("distributed", "compute_dtype"): request.dtype,
        **make_variant_updates(request, config),
    }
    wrapper = type(config).get_huggingface_model_for_causal_lm_class()
    load = CheckpointLoadConfig(path=path, format=make_format(weights) if weights else FastLLMCheckpointFormat)
    mode = StageMode.training if loops_over_experts(request, config) else StageMode.inference
    return wrapper.from_pretrained(load, updates, mode=mode).eval()
