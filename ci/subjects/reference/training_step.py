"""One training step of one rank: documents through its stage, gradients reduced, clipped and applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.subjects.images import Images
from ci.subjects.reference.attention import ImplementationLog
from ci.subjects.reference.config import Architecture
from ci.subjects.reference.model import Context
from ci.subjects.reference.parameter_shards import Stage, cut_architecture, cut_range, find_cut_axis
from ci.subjects.reference.rank_groups import RankGroups
from ci.subjects.reference.sharded_model import ShardedModel
from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT
from ci.tensor_names import EMBEDDINGS, ROUTER_LOGITS, TOP_EXPERTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.subjects.reference.adamw import AdamW


@dataclass(frozen=True)
class Document:
    """The tokens (T,) of a document, for each of T - 1 predictions whether it counts (0 or 1), and its images."""

    ids: Tensor
    counted: Tensor
    images: Images | None = None


@dataclass
class StepFigures:
    """What a step measured: its loss in nats, the gradient's norm before clipping, and the balancing loss."""

    loss: float
    gradient_norm: float
    balancing: float | None = None


@dataclass
class RankTrainer:
    """The part of a model that one rank trains. `parameters` are its leaves, in float32 at least.

    `auxiliary_loss` is the coefficient of the balancing loss of experts. `captured`, an empty dictionary, gets the
    tensors of the first document.
    """

    architecture: Architecture
    parameters: Mapping[str, Tensor]
    stage: Stage
    groups: RankGroups
    dtype: torch.dtype
    attention: str
    moe: str
    ran: ImplementationLog
    auxiliary_loss: float = 0.0
    captured: dict[str, Tensor] | None = None

    def compute_gradients(self, documents: Sequence[Document]) -> tuple[Tensor, Tensor]:
        """Run all documents of this rank, forward and backward; return the loss and the balancing loss of the step.

        Depth first, each document goes through both passes before the next one; breadth first, all go forward first.
        """
        tokens = self.count_tokens(documents)
        losses, balancing = [], []
        waves = [documents] if self.groups.place.layout.order == "breadth" else [[d] for d in documents]
        for wave in waves:
            passed = [self._run_forward(document, tokens) for document in wave]
            for one in passed:
                self._run_backward(one)
                losses.append(one.loss.detach())
                balancing.append(one.balancing.detach())
        return self._sum_over_ranks(losses), self._sum_over_ranks(balancing)

    def count_tokens(self, documents: Sequence[Document]) -> Tensor:
        """Count the predicted tokens of the step, over all documents of all data ranks."""
        return self.groups.sum(torch.stack([document.counted.sum() for document in documents]).sum(), "data")

    def _run_forward(self, document: Document, tokens: Tensor) -> _Passed:
        """Run the stage over a document, which comes from the ids or from the stage before."""
        model, recorder = self._build_model(), _Recorder(self.captured if self.captured == {} else None)
        context = Context(torch.arange(len(document.ids))[None], attention=self.attention, moe=self.moe, ran=self.ran)
        received = None if self.stage.embeddings else self._receive_hidden(len(document.ids))
        hidden = model.embed(document.ids[None]) if received is None else received
        if self.stage.embeddings:
            recorder(EMBEDDINGS, hidden)
        for index in self.stage.blocks:
            hidden = model.run_block(index, hidden, context, recorder)
        loss = hidden.new_zeros(())
        if self.stage.head:
            logits = model.run_head(hidden, recorder)[0, :-1]
            loss = compute_loss(model.sum_cross_entropy(logits, document.ids[1:], document.counted), tokens)
        else:
            self.groups.send(hidden, self.groups.place.pipeline + 1)
        balancing = sum((compute_balancing_loss(*router) for router in recorder.routers), loss.new_zeros(()))
        return _Passed(received, hidden, loss, self.scale_balancing_loss(balancing))

    def scale_balancing_loss(self, balancing: Tensor) -> Tensor:
        """Return a document's share of the balancing loss: the step's is the mean over its documents."""
        return self.auxiliary_loss * balancing / self.groups.place.layout.documents

    def _run_backward(self, passed: _Passed) -> None:
        """Differentiate one document of the stage, from the loss or from what the next stage sends."""
        roots: list[tuple[Tensor, Tensor | None]] = [(passed.balancing, None)] if passed.balancing.requires_grad else []
        if self.stage.head:
            roots.append((passed.loss, None))
        else:
            arrived = torch.empty_like(passed.output)
            roots.append((passed.output, self.groups.receive(arrived, self.groups.place.pipeline + 1)))
        torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
        if passed.received is not None and passed.received.grad is not None:
            self.groups.send(passed.received.grad, self.groups.place.pipeline - 1)

    def _build_model(self) -> ShardedModel:
        """Build the model in the dtype of the computation; its weights lead back to the parameters."""
        place = self.groups.place
        return ShardedModel(
            cut_architecture(self.architecture, place.layout.tensor),
            {name: parameter.to(self.dtype) for name, parameter in self.parameters.items()},
            self.groups,
            cut_range(self.architecture.vocabulary, place.tensor, place.layout.tensor),
        )

    def _receive_hidden(self, length: int) -> Tensor:
        hidden = torch.empty(1, length, self.architecture.hidden, dtype=self.dtype)
        return self.groups.receive(hidden, self.groups.place.pipeline - 1).requires_grad_()

    def _sum_over_ranks(self, values: Sequence[Tensor]) -> Tensor:
        """Return the sum over documents, stages and data ranks of values that tensor ranks share."""
        total = torch.stack(list(values)).sum().double()
        return self.groups.sum(self.groups.sum(total, "pipeline"), "data")


@dataclass(frozen=True)
class _Passed:
    """A document after the forward pass of a stage: its input from another stage, its output, its shares of losses."""

    received: Tensor | None
    output: Tensor
    loss: Tensor
    balancing: Tensor


@dataclass
class _Recorder:
    """Keeps the routers' logits and choices of a forward pass, and every tensor where `tensors` is there."""

    tensors: dict[str, Tensor] | None
    routers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _logits: Tensor | None = None

    def __call__(self, name: str, tensor: Tensor) -> None:
        if name.endswith(ROUTER_LOGITS):
            self._logits = tensor
        if name.endswith(TOP_EXPERTS) and self._logits is not None:
            self.routers.append((self._logits, tensor))
        if self.tensors is not None:
            rows = tensor.detach().clone()
            self.tensors[name] = rows if len(rows) == 1 else rows[None]  # routers see tokens without a batch


def compute_loss(total: Tensor, tokens: Tensor) -> Tensor:
    """Return a document's share of the step's loss: its summed cross entropy, divided by the step's tokens."""
    return total / tokens


def compute_balancing_loss(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the balancing loss of one layer over the tokens (N, experts) of a document: at least k of the top k.

    https://arxiv.org/abs/2101.03961
    """
    experts = logits.shape[-1]
    probabilities = torch.softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
    share = torch.nn.functional.one_hot(chosen, experts).sum(1).to(probabilities.dtype).mean(0)
    return experts * (share * probabilities.mean(0)).sum()


def reduce_gradients(trainer: RankTrainer) -> dict[str, Tensor]:
    """Return the full gradient of what this rank holds: summed over model copies, and over both copies of tied weights.

    A parameter that no gradient reached has zeros.
    """
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in trainer.parameters.items()
    }
    reduce_tied_gradient(trainer, gradients)
    for gradient in gradients.values():
        reduce_over_data(trainer.groups, gradient)
    return gradients


def reduce_over_data(groups: RankGroups, gradient: Tensor) -> None:
    """Sum a gradient over the model copies: the loss was divided by the tokens of all of them."""
    groups.sum(gradient, "data")


def reduce_tied_gradient(trainer: RankTrainer, gradients: dict[str, Tensor]) -> None:
    """Sum the gradient of tied embeddings over the first and the last stage, which both hold them."""
    if not (trainer.architecture.tied and trainer.groups.place.layout.pipeline > 1):
        return
    shape = _find_embeddings_shape(trainer)
    gradient = gradients.get(EMBEDDINGS_WEIGHT, torch.zeros(shape, dtype=torch.float32))
    dtype = next(iter(trainer.parameters.values())).dtype
    total = trainer.groups.sum(gradient.to(dtype), "pipeline")  # stages between them add zeros
    if EMBEDDINGS_WEIGHT in gradients:
        gradients[EMBEDDINGS_WEIGHT] = total


def compute_gradient_norm(trainer: RankTrainer, gradients: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of the whole gradient: each element of the model counts once, whoever holds it."""
    squares = [g.double().pow(2).sum() for name, g in gradients.items() if counts_for_norm(trainer, name)]
    total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
    for axis in ("tensor", "pipeline"):
        trainer.groups.sum(total, axis)
    return float(total.sqrt())


def counts_for_norm(trainer: RankTrainer, name: str) -> bool:
    """Return whether a rank adds a parameter to the norm: the first rank that holds it does."""
    place, tied = trainer.groups.place, trainer.architecture.tied
    second_copy = tied and name == EMBEDDINGS_WEIGHT and not place.is_first_stage
    return not second_copy and (find_cut_axis(name) is not None or place.tensor == 0)


def compute_clip_scale(norm: float, limit: float | None) -> float:
    """Return the factor that brings a gradient down to its limit; 1 where it is below or has none."""
    return min(1.0, limit / norm) if limit is not None and norm > 0 else 1.0


def run_step(
    trainer: RankTrainer, optimizer: AdamW, documents: Sequence[Document]
) -> tuple[StepFigures, dict[str, Tensor]]:
    """Run one step; return its figures and the gradients before clipping, of what this rank holds."""
    for parameter in trainer.parameters.values():
        parameter.grad = None
    loss, balancing = trainer.compute_gradients(documents)
    with torch.no_grad():
        gradients = reduce_gradients(trainer)
        norm = compute_gradient_norm(trainer, gradients)
        kept = {name: gradient.clone() for name, gradient in gradients.items()}
        optimizer.update(trainer.parameters, gradients, compute_clip_scale(norm, optimizer.settings.max_gradient_norm))
    return StepFigures(float(loss), norm, float(balancing) if trainer.auxiliary_loss else None), kept


def _find_embeddings_shape(trainer: RankTrainer) -> tuple[int, int]:
    place = trainer.groups.place
    rows = cut_range(trainer.architecture.vocabulary, place.tensor, place.layout.tensor)
    return len(rows), trainer.architecture.hidden
