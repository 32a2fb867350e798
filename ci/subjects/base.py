"""The protocol of a subject: describe, variants, convert, trace, export. Requests and results are files and records.

A subject may run in an interpreter of its own, so these records are standard dataclasses with JSON values only, and
this module imports nothing heavy.

A *trace* is a directory. Each scope of the forward pass is one safetensors file, written as soon as the scope
has run, so that no more than one layer's tensors are ever in memory:

    vision_encoder.embeddings.safetensors, vision_encoder.encoder.<i>.safetensors, vision_encoder.adapter.safetensors,
    image_embeddings.safetensors                            only where the inputs have images
    embeddings.safetensors      embeddings
    decoder.<i>.safetensors     decoder.<i>.norm_1, .mixer.query, … , decoder.<i>   (block i of 0..N-1)
    head.safetensors            final_norm, logits
    trace.json                  the TraceResult, written last: without it a trace is not finished

Tensor names are Fast-LLM's names for hidden states (`ci.tensor_names`). Shapes are (batch, sequence, …), in the trace's
dtype:

    embeddings                      (B, T, hidden)
    decoder.<i>.norm_1              (B, T, hidden)      input of the attention
    decoder.<i>.mixer.query         (B, T, heads, head_dim)      after RoPE
    decoder.<i>.mixer.key           (B, T, kv_heads, head_dim)   after RoPE
    decoder.<i>.mixer.value         (B, T, kv_heads, head_dim)
    decoder.<i>.mixer.step          (B, T, inner)       Mamba only, the step sizes after the softplus
    decoder.<i>.mixer.decay         (B, T, heads) or (B, T, heads, head_dim)   delta rule only, logarithm of the decay
    decoder.<i>.mixer.beta          (B, T, heads)       delta rule only, how much of the value is written
    decoder.<i>.mixer.recurrence    (B, T, heads, value_dim)   delta rule only, what is read from the state
    decoder.<i>.mixer.context       (B, T, heads * head_dim)     input of the output projection
    decoder.<i>.mixer               (B, T, hidden)      output of the attention, before its norm if it has one
    decoder.<i>.mixer_residual      (B, T, hidden)      after adding the residual
    decoder.<i>.norm_2              (B, T, hidden)      input of the MLP
    decoder.<i>.mlp.router_logits   (B, T, experts)     MoE only
    decoder.<i>.mlp.router_top_experts (B, T, k) int64  MoE only, sorted by score, highest first
    decoder.<i>.mlp.router_scores   (B, T, k)           MoE only, in the order of router_top_experts
    decoder.<i>.mlp.dense           (B, T, hidden)      dense branch beside experts, after its own norm; no norm_2 then
    decoder.<i>.mlp.routed          (B, T, hidden)      routed branch beside a dense one, after its own norm
    decoder.<i>.mlp                 (B, T, hidden)      output of the MLP, before its norm if it has one
    decoder.<i>                     (B, T, hidden)      output of the block
    final_norm                      (B, T, hidden)
    logits                          (B, T, vocab)
    prediction_head.<k>.block       (B, T, hidden)      several prediction heads only: head k from 1 has a block,
    prediction_head.<k>.final_norm  (B, T, hidden)      a norm
    prediction_head.<k>.logits      (B, T, vocab)       and logits of its own

    vision_encoder.embeddings.patch_embeddings (B, T, width)  images only: each patch times the projection
    vision_encoder.embeddings       (B, T, width)       after the norm of the patches: input of the tower's block 0
    vision_encoder.encoder.<i>.…    as decoder.<i>.…, norm_1 to mlp
    vision_encoder.encoder.<i>      (B, T, width)       output of a block of the tower
    vision_encoder.adapter          (B, T, hidden)      output of the projector
    image_embeddings                (B, T, hidden)      the decoder's input at the tokens of images

The tensors of images are zero at tokens of text: patch n of the batch stands at its n-th image token, row by row;
`ImageRecorder` puts them there. With `feed` each part of the tower reads the other trace's. A subject without hooks on
its tower leaves all of them out; the verdict says that they were not compared.

Of a delta rule (gated delta net, Kimi delta attention) query, key and value are what the recurrence reads: after the
convolution, without a rotation, before they are normalized; a head of keys that several heads of values share is
repeated. Of a Mamba block query, key and value are the C, B and x that its scan reads, (B, T, heads, state) each.

A subject that cannot capture a tensor lists it in `TraceResult.not_captured`; `logits`,
`embeddings`, each `decoder.<i>` and `final_norm` are mandatory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

NO_GRADIENTS = "the subject does not offer gradients"
DType = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True)
class Description:
    """A subject: its name, version and commit (None where unknown), libraries and formats."""

    subject: str
    version: str
    commit: str | None
    python: str
    libraries: Mapping[str, str]
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """One implementation choice: `axis` is "moe", "attention", …; the default of each axis is marked.

    `needs` names what is missing here to run the variant ("cuda", "triton"), else None. A variant with an unmet need is
    still listed: the suite must say that it did not run.
    """

    axis: str
    name: str
    default: bool = False
    needs: str | None = None


@dataclass(frozen=True)
class ConvertRequest:
    """Convert the Hugging Face checkpoint directory `source` into the subject's format at `target` (must not exist)."""

    source: str
    target: str
    checkpoint_format: str
    model_config: str = "gpt"


@dataclass(frozen=True)
class ExportRequest:
    """Convert the subject's checkpoint `source` back into a Hugging Face directory at `target` (must not exist)."""

    source: str
    target: str
    checkpoint_format: str
    model_config: str = "gpt"
    dtype: DType = "float32"


@dataclass(frozen=True)
class TraceRequest:
    """Run the forward pass of `checkpoint` over `inputs` and write a trace directory at `output` (must not exist).

    `inputs` is a safetensors file: `input_ids` int64 (B, T), optionally `attention_mask` int64 (B, T) of 0 and 1,
    left padded. A model that sees has `pixel_values` float32 (N, C, H, W), `image_sizes` int64 (N, 2) and `image_rows`
    int64 (N,) too, where there are images.
    `variant` maps axis to name; an axis not named runs its default. `capture` is "blocks" (embeddings, block outputs,
    final_norm, logits) or "all" (every name above). `feed` is another trace directory: its `embeddings`
    and block outputs replace this model's block inputs (teacher forcing), so that each block is compared alone. The
    model runs in `eval` mode, without gradients, TF32 and reduced-precision reductions.
    """

    checkpoint: str
    inputs: str
    output: str
    dtype: DType = "float32"
    device: str = "cpu"
    variant: Mapping[str, str] = field(default_factory=dict)
    capture: Literal["blocks", "all"] = "blocks"
    feed: str | None = None


@dataclass(frozen=True)
class ConvertResult:
    """Files that convert or export wrote: names relative to the target, bytes, and seconds taken."""

    files: tuple[str, ...]
    bytes_written: int
    seconds: float


@dataclass(frozen=True)
class TraceResult:
    """A finished forward pass. `ran` maps each axis to the implementation that executed, as the subject observed it.

    `scopes` lists the safetensors files' stems in execution order; `names` each file's tensors in execution order.
    `peak_device_bytes` is the device's peak allocation during the forward, 0 on CPU; `seconds` the forward alone,
    `load_seconds` reading the checkpoint to the device, `compile_seconds` the part of `seconds` that compiled kernels,
    0 where the subject does not count it.
    """

    scopes: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    ran: Mapping[str, str]
    dtype: DType
    device: str
    seconds: float
    load_seconds: float = 0.0
    peak_device_bytes: int = 0
    not_captured: tuple[str, ...] = ()
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class GradientRequest:
    """Differentiate the mean next-token cross entropy of `inputs` by every parameter of `checkpoint`.

    `inputs` is a safetensors file: `input_ids` int64 (1, T) and, for a model that sees, the images of a TraceRequest:
    T - 1 predictions in nats, without auxiliary losses. A token that stands for an image is no target: it is predicted
    by none, and does not count in the mean.
    `output` (must not exist) becomes a directory with `model.safetensors`: gradients in `dtype`, under the names and
    in the shapes of the Hugging Face checkpoint on disk, tied parameters summed. No dropout, no gradient scaling.
    With several prediction heads the loss is the sum of their means, each over the tokens for which every head has a
    target: the first T - heads. Mixers that take turns and did not run have no gradients.
    """

    checkpoint: str
    inputs: str
    output: str
    checkpoint_format: str
    model_config: str = "gpt"
    dtype: DType = "float32"
    device: str = "cpu"
    variant: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GradientResult:
    """The loss in nats, what ran (axis → implementation, as far as the subject can tell), and seconds taken."""

    loss: float
    ran: Mapping[str, str]
    seconds: float


class Subject(Protocol):
    """What can be under test. A refusal is an UnsupportedError with its reason; any other exception is a crash."""

    def describe(self) -> Description:
        """Return the subject's name, version, commit, libraries and formats."""
        ...

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the implementations that can be chosen for the converted `checkpoint` directory."""
        ...

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Convert a Hugging Face directory to the subject's checkpoint directory."""
        ...

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass of a converted checkpoint and write a trace directory."""
        ...

    def export(self, request: ExportRequest) -> ConvertResult:
        """Convert the subject's checkpoint directory back to a Hugging Face directory."""
        ...

    def release(self) -> None:
        """Unload the model that was kept for the next trace: another process needs the device now."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A subject that can also train: an optional part of the protocol."""

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run the forward and backward pass of a converted checkpoint and write its gradients."""
        ...

    def release(self) -> None:
        """Unload the model, as a Subject does."""
        ...


@runtime_checkable
class Preparable(Protocol):
    """A subject whose imports take seconds: an optional part of the protocol."""

    def prepare(self) -> None:
        """Import the libraries that the other calls need."""
        ...


@runtime_checkable
class DevicePreparable(Protocol):
    """A subject whose first use of a device takes seconds: an optional part of the protocol."""

    def prepare_device(self, device: str) -> None:
        """Make a device ready for the first model, and load none."""
        ...


@runtime_checkable
class HuggingFaceRunner(Protocol):
    """Hugging Face's side, in this process or in a worker."""

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the implementations that the model can run, all of them right."""
        ...

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass of a Hugging Face directory and write a trace directory."""
        ...

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run the backward pass of a Hugging Face directory and write its gradients."""
        ...

    def release(self) -> None:
        """Unload the model."""
        ...

    def describe_side(self, checkpoint: str, /) -> str:
        """Say which transformers runs whose modelling code."""
        ...

    def runs_code_under_test(self) -> bool:
        """Return whether its modelling code is of the commit that is tested."""
        ...

    def resolve_config(self, checkpoint: str) -> Mapping[str, Any]:
        """Return config.json as transformers understands it, defaults filled in."""
        ...

    def write_model(self, source: str, target: str, dtype: DType, seed: int) -> ConvertResult:
        """Write a model with drawn weights at `target`, for the config.json in `source`."""
        ...


@runtime_checkable
class UsesCompileCache(Protocol):
    """A subject that may run code which earlier runs compiled: an optional part of the protocol."""

    def uses_compile_cache(self) -> bool:
        """Tell whether it has code of earlier runs."""
        ...

    def drop_compile_cache(self) -> bool:
        """Go on without code of earlier runs; return whether there was any."""
        ...

    def blame_compile_cache(self) -> None:
        """Note that the dropped code was wrong: what failed with it succeeds without."""
        ...

    def compile_cache_figures(self) -> Mapping[str, float]:
        """Return the files, bytes and seconds of the copy; empty where there is none."""
        ...
