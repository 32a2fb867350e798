"""Runs optimizer steps of a transformers model in one process: what every layout must give.

All documents of a step run one after another, unpadded. Gradients are written under the names that the parameters have
on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ci.errors import SubjectError
from ci.layouts import LAYOUTS
from ci.subjects.forward import measure_cost
from ci.subjects.hugging_face.gradients import drop_tensors, merge_shards
from ci.subjects.hugging_face.model_arguments import collect_arguments
from ci.subjects.hugging_face.structure import find_prediction_blocks, list_idle_parameters
from ci.subjects.images import Images, split_images, take_images
from ci.subjects.training import TrainRequest, TrainResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.training import OptimizerSettings


@dataclass(frozen=True)
class TrainingDocument:
    """The tokens (T,) of a document, for each of T - 1 predictions whether it counts, and its images, if any."""

    ids: Tensor
    counted: Tensor
    images: Images | None = None

    def count_targets(self, head: int) -> int:
        """Count the targets of a prediction head: the one at 0 predicts the next token."""
        return int(self.counted[head:].sum())


@dataclass
class TrainingRun:
    """The steps of a request over a loaded model. With `parts` each document's own gradient of step 1 is kept too.

    They are written to `parts/document/<d>`, those of the balancing loss to `parts/balancing/<d>`, and for tied
    embeddings what comes from the lookup and from the head to `parts/lookup` and `parts/head`.
    `parts/tokens.safetensors` has each document's cross entropy by prediction, `loss.<d>`, and which count,
    `counted.<d>`.
    """

    model: Any
    request: TrainRequest
    ran: Mapping[str, str]
    parts: bool = False
    _figures: list[tuple[float, float, float | None]] = field(default_factory=list)

    def run(self) -> TrainResult:
        """Run the steps, and write each one's gradients."""
        documents, count = read_training_documents(Path(self.request.inputs)), LAYOUTS[self.request.layout].documents
        optimizer = make_adamw(self.model, self.request.optimizer)
        with measure_cost(self.request.device) as cost:
            for step in range(self.request.steps):
                first = (self.request.resume_steps + step) * count
                self._run_step(step + 1, documents[first : first + count], optimizer)
        losses, norms, balancing = zip(*self._figures, strict=True)
        auxiliary = tuple({} if value is None else {"load_balancing_loss": value} for value in balancing)
        return TrainResult(losses, auxiliary, norms, (), "", {**self.ran, "layout": "single"}, cost.seconds)

    def _run_step(self, step: int, documents: list[TrainingDocument], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        if self.parts and step == 1:
            self._write_parts(documents)
        tokens = self._count_targets(documents)
        loss, balancing = 0.0, 0.0
        for document in documents:
            language, term = self._run_document(document, tokens, len(documents))
            torch.autograd.backward(language + term)
            loss, balancing = loss + language.detach().item(), balancing + term.detach().item()
        norm = compute_norm(self.model)
        self._figures.append((loss, norm, balancing if self.request.auxiliary_loss else None))
        self._write_gradients(Path(self.request.output) / f"step-{step}" / "gradients")
        clip_gradients(self.model, norm, self.request.optimizer.max_gradient_norm)
        if step < self.request.steps:  # the last step's weights are computed from its gradients
            optimizer.step()

    def _count_targets(self, documents: list[TrainingDocument]) -> list[int]:
        """Count the targets of each prediction head over all documents."""
        heads = 1 + len(find_prediction_blocks(self.model))
        return [sum(document.count_targets(head) for document in documents) for head in range(heads)]

    def _run_document(self, document: TrainingDocument, tokens: list[int], documents: int) -> tuple[Tensor, Tensor]:
        """Return a document's share of the loss, the sum over prediction heads, and of the balancing loss."""
        ids, counted = document.ids.to(self.request.device), document.counted.to(self.request.device)
        asked = {"output_router_logits": True} if self.request.auxiliary_loss else {}
        output = self.model(input_ids=ids[None], use_cache=False, **self._collect_arguments(document), **asked)
        heads = split_heads(output.logits)
        losses = [compute_losses(logits, ids, head) * counted[head:] for head, logits in enumerate(heads)]
        language = torch.stack([one.sum() / count for one, count in zip(losses, tokens, strict=True)]).sum()
        if not asked:
            return language, language.new_zeros(())
        per_token = self.model.config.num_experts_per_tok
        terms = [compute_balancing_loss(logits, per_token) for logits in output.router_logits]
        return language, self.request.auxiliary_loss * torch.stack(terms).sum() / documents

    def _collect_arguments(self, document: TrainingDocument) -> dict[str, Any]:
        """Collect what the model is given beside the tokens: a document's images, and that every head is asked for."""
        images = document.images.to(self.request.device) if document.images else None
        return collect_arguments(self.model, images, next(self.model.parameters()).dtype)

    def _write_parts(self, documents: list[TrainingDocument]) -> None:
        """Write each document's own gradient, and those of both uses of tied embeddings."""
        tokens, target = self._count_targets(documents), Path(self.request.output) / "parts"
        target.mkdir(parents=True)
        save_file(self._measure_tokens(documents), target / "tokens.safetensors")
        for index, document in enumerate(documents):
            for kind in range(2 if self.request.auxiliary_loss else 1):
                torch.autograd.backward(self._run_document(document, tokens, len(documents))[kind])
                self._write_gradients(target / ("document", "balancing")[kind] / str(index))
                self.model.zero_grad(set_to_none=True)
        if _is_tied(self.model):
            for use in ("lookup", "head"):
                with _only_use(self.model, use):
                    for document in documents:
                        torch.autograd.backward(self._run_document(document, tokens, len(documents))[0])
                self._write_gradients(target / use)
                self.model.zero_grad(set_to_none=True)

    def _measure_tokens(self, documents: list[TrainingDocument]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for index, document in enumerate(documents):
            with torch.no_grad():
                ids, arguments = document.ids.to(self.request.device), self._collect_arguments(document)
                logits = self.model(input_ids=ids[None], use_cache=False, **arguments).logits
            losses = compute_losses(split_heads(logits)[0], ids, 0)
            tensors |= {f"loss.{index}": losses.cpu(), f"counted.{index}": document.counted.contiguous()}
        return tensors

    def _write_gradients(self, directory: Path) -> None:
        """Write the gradients as if they were weights: transformers fuses experts in memory."""
        from transformers import GenerationConfig

        weights = {name: parameter.data for name, parameter in self.model.named_parameters()}
        idle = list_idle_parameters(self.model)
        try:
            for name, parameter in self.model.named_parameters():
                if parameter.grad is None and not self.parts and name not in idle:
                    raise SubjectError(f"Hugging Face, {self.request.checkpoint}: no gradient reaches {name}")
                parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if getattr(self.model, "generation_config", None) is not None:
                self.model.generation_config = GenerationConfig()  # a model's own may refuse to be written
            self.model.save_pretrained(directory)
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.data = weights[name]
        merge_shards(directory)
        drop_tensors(directory, idle | {name for name, _ in self.model.named_buffers()})


def read_training_documents(path: Path) -> list[TrainingDocument]:
    """Read the inputs of a TrainRequest that the judge wrote; each document without its padding."""
    # By numpy: safetensors asks torch for float32, which means float64 in `float64_mode`.
    with safe_open(path, framework="numpy") as file:
        tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    ids, lengths = tensors["input_ids"], tensors["lengths"].tolist()
    mask = tensors.get("loss_mask", torch.ones_like(ids[:, 1:]))
    images = split_images(take_images(tensors), len(ids))
    rows = zip(ids, lengths, mask, images, strict=True)
    return [TrainingDocument(row[:n], kept[: n - 1], seen) for row, n, kept, seen in rows]


def split_heads(logits: Tensor) -> tuple[Tensor, ...]:
    """Return the logits (T, vocabulary) of each prediction head."""
    return logits[0].unbind(dim=1) if logits.ndim == 4 else (logits[0],)


def compute_losses(logits: Tensor, ids: Tensor, head: int) -> Tensor:
    """Return a prediction head's cross entropy in nats (T - 1 - head,) for a document (T,)."""
    return torch.nn.functional.cross_entropy(logits[: len(ids) - 1 - head], ids[1 + head :], reduction="none")


def make_adamw(model: Any, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Make torch's AdamW with weight decay on matrices alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (settings.beta_1, settings.beta_2)
    return torch.optim.AdamW([g for g in groups if g["params"]], settings.learning_rate, betas, settings.epsilon)


def compute_norm(model: Any) -> float:
    """Return the L2 norm of all gradients."""
    return math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in model.parameters() if p.grad is not None))


def clip_gradients(model: Any, norm: float, limit: float | None) -> None:
    """Scale all gradients so that their norm is at most `limit`."""
    if limit is not None and norm > limit:
        for parameter in (one for one in model.parameters() if one.grad is not None):
            parameter.grad.mul_(limit / norm)


def compute_balancing_loss(logits: Tensor, per_token: int) -> Tensor:
    """Return the balancing loss of one layer over the tokens of a document: https://arxiv.org/abs/2101.03961."""
    logits = logits.reshape(-1, logits.shape[-1])
    probabilities = logits.softmax(-1)
    chosen = torch.zeros_like(probabilities).scatter(-1, probabilities.topk(per_token, -1).indices, 1.0)
    return logits.shape[-1] * (chosen.mean(0) * probabilities.mean(0)).sum()


def _is_tied(model: Any) -> bool:
    """Tell whether the head is the embeddings' own weight."""
    head = model.get_output_embeddings()
    return head is not None and model.get_input_embeddings().weight is head.weight


@contextmanager
def _only_use(model: Any, use: str) -> Iterator[None]:
    """Let gradients reach tied embeddings through one of their two uses alone."""
    module = model.get_output_embeddings() if use == "lookup" else model.get_input_embeddings()
    tied = module.weight
    module.weight = torch.nn.Parameter(tied.detach(), requires_grad=False)
    try:
        yield
    finally:
        module.weight = tied
