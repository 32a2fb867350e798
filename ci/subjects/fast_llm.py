"""The adapter to the real Fast-LLM, through its public API: https://github.com/ServiceNow/Fast-LLM

Fast-LLM is imported when it is first needed, since it belongs into an interpreter of its own (Python 3.12 or newer).
On CPU its `torch.compile`d functions run eagerly, because compiling them costs up to half a minute a model;
`variant={"compile": "inductor"}` compiles them there too. On CUDA they are compiled, as in production.
"""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError, UnsupportedError
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
from ci.subjects.fast_llm_config import (
    compiler_of,
    config_of,
    format_of,
    model_class,
    runs_looped,
    variant_updates,
    variants_of,
)
from ci.subjects.fast_llm_errors import one_line_errors
from ci.subjects.provenance import commit_of, libraries, python_version
from ci.subjects.resident import Resident, content_key

if TYPE_CHECKING:
    from ci.subjects.forward import Feed, Inputs

LIBRARIES = ("torch", "transformers", "safetensors", "triton", "flash-attn", "numpy")


@dataclass(frozen=True)
class FastLLMSubject:
    """Fast-LLM behind the subject protocol. What it raises comes out as one line that ends in the place.

    The last model traced stays loaded, with its variant, until another is asked for or `release`.
    """

    _resident: Resident[Any] = field(default_factory=Resident, init=False, repr=False, compare=False)

    def describe(self) -> Description:
        """Version, commit of the tree it is imported from, libraries, and the formats it converts."""
        with one_line_errors("import"):
            import fast_llm

            formats = model_class("gpt").checkpoint_formats
            return Description(
                subject="fast_llm",
                version=fast_llm.__version__,
                commit=commit_of(Path(fast_llm.__file__).parent, "fast_llm"),
                python=python_version(),
                libraries=libraries(LIBRARIES),
                formats=tuple(format_.name for format_ in formats),
            )

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """MoE and attention implementations; the default is what `auto` means here for float32."""
        with one_line_errors(f"variants of {checkpoint}"):
            return variants_of(config_of(Path(checkpoint)))

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Import a Hugging Face directory into Fast-LLM's own format, on the CPU."""
        return _convert(request, (request.checkpoint_format, "fast_llm"), {})

    def export(self, request: ExportRequest) -> ConvertResult:
        """Export a Fast-LLM checkpoint to a Hugging Face directory in `request.dtype`, on the CPU."""
        return _convert(request, ("fast_llm", request.checkpoint_format), {"data_type": request.dtype})

    def trace(self, request: TraceRequest) -> TraceResult:
        """Forward pass in inference phase; `ran` is what the loaded model's blocks resolved their variants to."""
        from ci.subjects.forward import exact_arithmetic

        if request.device not in ("cpu", "cuda", "cuda:0"):
            raise UnsupportedError(
                f"Fast-LLM runs on the first visible GPU, not on {request.device}: set CUDA_VISIBLE_DEVICES"
            )
        try:
            with (
                one_line_errors(f"trace of {request.checkpoint}"),
                exact_arithmetic(),
                _compiling(compiler_of(request)),
            ):
                return _trace(request, self._resident)
        except BaseException:
            self.release()  # what a failed forward left behind is nobody's model
            raise

    def release(self) -> None:
        """Let the loaded model go."""
        self._resident.release()

    def gradients(self, request: GradientRequest) -> GradientResult:
        """One training step's gradients, by Hugging Face's names."""
        from ci.subjects.fast_llm_gradients import as_trace, run_gradients
        from ci.subjects.forward import exact_arithmetic

        self.release()
        with (
            one_line_errors(f"gradients of {request.checkpoint}"),
            exact_arithmetic(),
            _compiling(compiler_of(as_trace(request))),
        ):
            return run_gradients(request)


def _trace(request: TraceRequest, resident: Resident[Any]) -> TraceResult:
    import torch

    from ci.subjects.fast_llm_trace import ALL
    from ci.subjects.forward import DTYPES, Feed, read_inputs
    from ci.subjects.tracefile import TraceReader

    inputs = read_inputs(Path(request.inputs)).to(request.device)
    key = (*content_key(request.checkpoint), request.dtype, request.device, tuple(sorted(request.variant.items())))
    model, load_seconds = resident.get(key, lambda: _load(request), device=request.device)
    vocabulary = model.config.fast_llm_config.base_model.embeddings.vocab_size
    if int(inputs.ids.max()) >= vocabulary:
        raise RequestError(f"input_ids hold {int(inputs.ids.max())}, the model's vocabulary ends at {vocabulary - 1}")
    feed = Feed(TraceReader(Path(request.feed)), DTYPES[request.dtype], request.device) if request.feed else None
    operations = frozenset(ALL) if request.capture == "all" else frozenset()
    with torch.inference_mode():
        return _Run(model, request, load_seconds).forward(inputs, feed, operations)


@dataclass(frozen=True)
class _Run:
    """A loaded model and the request it was loaded for."""

    model: Any
    request: TraceRequest
    load_seconds: float

    def forward(self, inputs: Inputs, feed: Feed | None, operations: frozenset[str]) -> TraceResult:
        """One forward of `inputs` as the trace that was asked for."""
        from fast_llm.layers.attention.config import AttentionKwargs

        from ci.subjects.fast_llm_trace import Taps, implementations
        from ci.subjects.forward import DTYPES, Recorder, measured
        from ci.subjects.tracefile import TraceWriter

        request = self.request
        recorder = Recorder(writer := TraceWriter(Path(request.output)), inputs, DTYPES[request.dtype])
        taps = Taps(self.model, recorder, operations, feed, AttentionKwargs.rotary_freq)
        with measured(request.device) as cost, taps.attached():
            answer = self.model(
                inputs.ids,
                attention_mask=inputs.mask,
                use_cache=False,
                output_hidden_states=taps.patterns(),
                return_dict=True,
            )
        seconds = cost.seconds - recorder.seconds
        (final_norm,) = answer.hidden_states.values()
        recorder.put("final_norm", final_norm)
        recorder.put("logits", answer.logits, ours=True)
        recorder.flush()
        missing = set(taps.expected()) - set(recorder.written)
        return writer.finish(
            ran={**implementations(taps.blocks), "compile": compiler_of(request)},
            dtype=request.dtype,
            device=request.device,
            seconds=seconds,
            load_seconds=self.load_seconds,
            peak_device_bytes=cost.peak_device_bytes,
            not_captured=tuple(name for name in taps.expected() if name in missing),
        )


def _load(request: TraceRequest) -> Any:
    """The checkpoint as Fast-LLM's Hugging Face wrapper, with the request's variant set in each block."""
    from fast_llm.engine.checkpoint.config import CheckpointLoadConfig, FastLLMCheckpointFormat
    from fast_llm.engine.multi_stage.config import StageMode

    path = Path(request.checkpoint)
    config = config_of(path)
    updates = {
        ("distributed", "use_cuda"): request.device != "cpu",
        ("distributed", "compute_dtype"): request.dtype,
        **variant_updates(request, config),
    }
    wrapper = type(config).get_huggingface_model_for_causal_lm_class()
    load = CheckpointLoadConfig(path=path, format=FastLLMCheckpointFormat)
    mode = StageMode.training if runs_looped(request, config) else StageMode.inference
    return wrapper.from_pretrained(load, updates, mode=mode).eval()


def _convert(request: ConvertRequest | ExportRequest, formats: tuple[str, str], save: dict[str, Any]) -> ConvertResult:
    """Convert beside the target, then rename: a target that exists is complete."""
    source, target = Path(request.source), Path(request.target)
    if target.exists():
        raise RequestError(f"{target} exists; name a directory that does not")
    part = target.with_name(f".{target.name}.part")
    started = time.perf_counter()
    try:
        with one_line_errors(f"{formats[0]} to {formats[1]}"):
            _run_conversion(model_class(request.model_config), (source, part), formats, save)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return ConvertResult(
        files=tuple(str(path.relative_to(target)) for path in files),
        bytes_written=sum(path.stat().st_size for path in files),
        seconds=time.perf_counter() - started,
    )


def _run_conversion(model: Any, paths: tuple[Path, Path], formats: tuple[str, str], save: dict[str, Any]) -> None:
    from fast_llm.engine.checkpoint.config import CheckpointLoadConfig, CheckpointSaveConfig
    from fast_llm.engine.checkpoint.convert import ConvertConfig

    load, store = (format_of(model, name) for name in formats)
    ConvertConfig(
        model=model,
        input=CheckpointLoadConfig(path=paths[0], format=load),
        output=CheckpointSaveConfig(path=paths[1], format=store, **save),
        use_cpu=True,
    ).run()


def _compiling(compiler: str) -> Any:
    """https://docs.pytorch.org/docs/stable/generated/torch.compiler.set_stance.html"""
    import torch

    return torch.compiler.set_stance("force_eager") if compiler == "eager" else nullcontext()
