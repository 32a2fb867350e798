"""Wrong replacements of a training step: reductions over ranks, clipping, accumulation, pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ClipLimit:
    """The limit of the step that runs now, for a fault that clips where no settings are at hand."""

    value = 1.0


def reduce_nothing(_: Any, __: Any) -> None:
    """Leave the gradient of this model copy as it is."""


def reduce_mean(groups: Any, gradient: Any) -> None:
    """Average gradients over data ranks although the loss is a mean already."""
    groups.sum(gradient, "data")
    gradient /= groups.place.layout.data


def reduce_matrices(groups: Any, gradient: Any) -> None:
    """Reduce matrices only."""
    if gradient.ndim > 1:
        groups.sum(gradient, "data")


def clip_before_sum(original: Any) -> Any:
    """Clip the gradients before they are summed over data ranks."""

    def reduce(trainer: Any) -> Any:
        gradients = [p.grad for p in trainer.parameters.values()]
        norm, limit = torch.stack([g.norm() for g in gradients]).norm(), ClipLimit.value
        for gradient in gradients:
            gradient *= min(1.0, limit / float(norm))
        return original(trainer)

    return reduce


def tell_clip_limit(original: Any) -> Any:
    """Tell `ClipLimit` the limit of each step."""

    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        ClipLimit.value = optimizer.settings.max_gradient_norm
        return original(trainer, optimizer, documents)

    return step


def reduce_each_document(original: Any) -> Any:
    """Reduce after every micro-batch: what was reduced before is summed again."""

    def backward(self: Any, passed: Any) -> None:
        original(self, passed)
        for parameter in self.parameters.values():
            self.groups.sum(parameter.grad, "data")

    return backward


def overwrite_gradients(original: Any) -> Any:
    """Keep the gradient of the last micro-batch only."""

    def backward(self: Any, passed: Any) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None
        original(self, passed)

    return backward


def tokens_of_rank(_: Any, documents: Sequence[Any]) -> Any:
    """Count the tokens of the rank's own documents."""
    return torch.stack([document.counted.sum() for document in documents]).sum()


def same_documents(documents: Any, first: int, place: Any) -> Any:
    """Give every data rank the same documents."""
    layout = place.layout
    return [documents[first + layout.data * index] for index in range(layout.micro_batches)]


def norm_over_axes(*axes: str) -> Callable[..., float]:
    """Return a gradient norm that is summed over the given axes alone."""

    def compute(trainer: Any, gradients: Any) -> float:
        from ci.subjects.reference.training_step import counts_for_norm

        squares = [g.double().pow(2).sum() for name, g in gradients.items() if counts_for_norm(trainer, name)]
        total = torch.stack(squares).sum()
        for axis in axes:
            trainer.groups.sum(total, axis)
        return float(total.sqrt())

    return compute


def count_both_ends(original: Any) -> Any:
    """Count tied embeddings at both ends of the pipeline."""
    return lambda trainer, name: name == EMBEDDINGS_WEIGHT or original(trainer, name)


def send_zeros_back(original: Any) -> Any:
    """Send zeros to the earlier pipeline stage."""

    def send(self: Any, tensor: Any, stage: int) -> None:
        original(self, tensor * 0 if stage < self.place.pipeline else tensor, stage)

    return send


def halve_gradient_back(original: Any) -> Any:
    """Send half of the gradient to the earlier pipeline stage."""

    def send(self: Any, tensor: Any, stage: int) -> None:
        original(self, tensor / 2 if stage < self.place.pipeline else tensor, stage)

    return send


def stop_second_rank(original: Any) -> Any:
    """Stop the second rank in the middle of a step."""

    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        if trainer.groups.place.rank == 1:
            raise RuntimeError("planted: this rank stops")
        return original(trainer, optimizer, documents)

    return step


def update_own_slice(self: Any, parameters: Any, gradients: Any, scale: float) -> None:
    """Update the rank's own slice and never ask the other ranks for theirs."""
    from ci.subjects.reference.adamw import is_decayed, update_weight

    self.step += 1
    for name, parameter in parameters.items():
        weight, gradient = self.cut_state(parameter).clone(), self.cut_state(gradients[name]) * scale
        decay = self.settings.weight_decay if is_decayed(parameter) else 0.0
        update_weight(weight, gradient, self.moments[name], self.settings, decay, self.step)
        begin = self.groups.place.data * len(weight)
        flat = parameter.view(-1)
        kept = max(0, min(len(weight), len(flat) - begin))
        flat[begin : begin + kept] = weight[:kept]


def gather_reversed(original: Any) -> Any:
    """Gather the parts of tensor ranks in reversed order."""

    def gather(self: Any, part: Any, axis: str) -> Any:
        whole = original(self, part, axis)
        return torch.cat(whole.chunk(len(whole) // len(part))[::-1])

    return gather


def cut_next_slice(original: Any) -> Any:
    """Take the moments' slice of the next data rank for a gradient."""

    def update(self: Any, parameters: Any, gradients: Any, scale: float) -> None:
        count = self.slices
        moved = {}
        for name, gradient in gradients.items():
            flat = torch.nn.functional.pad(gradient.flatten(), (0, -gradient.numel() % count))
            moved[name] = flat.roll(len(flat) // count)[: gradient.numel()].view_as(gradient)
        original(self, parameters, moved, scale)

    return update
