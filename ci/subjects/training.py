"""The optional training part of a subject's protocol: optimizer steps over documents, in a parallel layout.

A step's documents are dealt to the data-parallel ranks in turn: document d goes to rank d mod `Layout.data`, as its
micro-batch d div `Layout.data`. All ranks that hold parts of one model copy compute the same document.

The output directory:

    step-<i>/gradients/model.safetensors   every parameter's gradient before clipping, Hugging Face's names, i = 1, 2, …
    step-<i>/weights/model.safetensors     every parameter after the optimizer's step, Hugging Face's names
    checkpoint/                            the subject's own training checkpoint, where `save` asks for it
    export/                                a Hugging Face directory written from this layout, where `export` asks for it

Gradients and weights are full tensors: sharded ones are gathered along their axis, replicas must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from ci.subjects.base import DType

NO_TRAINING = "the subject does not offer training steps"


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with decoupled weight decay: https://arxiv.org/abs/1711.05101

    Weight decay applies to matrices only: not to norms and biases. A gradient whose L2 norm over all parameters is
    above `max_gradient_norm` is scaled down to it; None does not clip.
    """

    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    max_gradient_norm: float | None = None


@dataclass(frozen=True)
class TrainRequest:
    """Run optimizer steps from `checkpoint`, or go on from a training checkpoint that an earlier request saved.

    `inputs` is a safetensors file: `input_ids` int64 (documents, T), right padded with 0, `lengths` int64 (documents,),
    optionally `loss_mask` int64 (documents, T - 1) of 0 and 1, one for each predicted token. Each step takes the next
    `Layout.documents` of them. The loss is the mean cross entropy in nats over all predicted tokens of the step,
    whatever their document. With several prediction heads it is the sum of their means: head k predicts the token k + 1
    places further, and counts a target that the mask counts and that is in the document.
    For a model that sees, `inputs` has the images of a TraceRequest too, `image_rows` their documents; the mask does
    not count a token that stands for an image.
    `auxiliary_loss` is the coefficient c of a mixture's balancing loss. It adds, as the mean over the step's documents,
    c times the sum over layers of E times the sum over experts of (share of the document's tokens that chose the
    expert) times (mean probability of the expert): https://arxiv.org/abs/2101.03961.
    `recompute` names what the backward pass computes again. `resume` is another request's `checkpoint/`; `resume_steps`
    of the inputs are skipped then. With `steps` 0 the run only loads, saves and exports. `seconds` is the limit after
    which ranks that wait for one another are stopped. `variant` names implementations; a "mixer" is the one of several
    that take turns which every block runs. Those that did not run have no gradients, and are not compared.
    """

    checkpoint: str
    inputs: str
    output: str
    checkpoint_format: str
    model_config: str = "gpt"
    layout: str = "single"
    dtype: DType = "float32"
    device: str = "cpu"
    steps: int = 1
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    auxiliary_loss: float = 0.0
    recompute: str = "none"
    resume: str | None = None
    resume_steps: int = 0
    save: bool = False
    export: bool = False
    seconds: float = 120.0
    capture: bool = False
    variant: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RankReport:
    """What one rank was in a run: its groups (axis → ranks), device, and the local shape of each parameter it held.

    `parameters` has the subject's own names; a shape is the shard's, so that a layout that split nothing shows it.
    """

    rank: int
    groups: Mapping[str, tuple[int, ...]]
    device: str
    parameters: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Disagreement:
    """Copies of one tensor that should be equal and are not: the relative L2 difference between two ranks.

    `tensor` has the subject's own name; `kind` says whether it is the gradient or the weight after the step.
    """

    tensor: str
    kind: Literal["gradient", "weight"]
    ranks: tuple[int, int]
    error: float
    step: int = 1


@dataclass(frozen=True)
class TrainResult:
    """A finished run: by step the loss in nats, the auxiliary losses, and the gradient's L2 norm before clipping.

    `backend` is the collectives' library ("gloo", "nccl", "" for one rank); `not_gathered` names sharded tensors that
    could not be made full; `ran` maps each axis to the implementation that executed, `layout` and `recompute` included.
    """

    losses: tuple[float, ...]
    auxiliary_losses: tuple[Mapping[str, float], ...]
    gradient_norms: tuple[float | None, ...]
    ranks: tuple[RankReport, ...]
    backend: str
    ran: Mapping[str, str]
    seconds: float
    not_gathered: tuple[str, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()


def list_step_files(steps: int) -> tuple[str, ...]:
    """List the files that a run of so many steps must write below its output directory."""
    kinds = ("gradients", "weights")
    return tuple(f"step-{step}/{kind}/model.safetensors" for step in range(1, steps + 1) for kind in kinds)


def list_gradient_files(steps: int) -> tuple[str, ...]:
    """List the files that Hugging Face's side must write: weights are computed from its gradients."""
    return tuple(f"step-{step}/gradients/model.safetensors" for step in range(1, steps + 1))


class HuggingFaceTrainer(Protocol):
    """Hugging Face's side of training: in this process, or in a worker for a model with code of its own."""

    def train(self, request: TrainRequest) -> TrainResult:
        """Run the request's steps in one process and write each step's gradients."""
        ...

    def train_in_parts(self, request: TrainRequest) -> TrainResult:
        """Run the steps, and write the parts of the first gradient too."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A subject that runs whole training steps: an optional part of the protocol."""

    def train(self, request: TrainRequest) -> TrainResult:
        """Run the request's steps; raise UnsupportedError by name for a layout that is not offered."""
        ...

    def release(self) -> None:
        """Unload the model, as a Subject does."""
        ...
