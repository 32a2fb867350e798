"""Wrong replacements of AdamW, of clipping, and of the loss that a step reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def correct_later(original: Any) -> Any:
    """Correct AdamW's bias with the step that follows."""
    return lambda moments, settings, step: original(moments, settings, step + 1)


def update_changed(
    *, l2: bool = False, unscaled: bool = False, inside: bool = False, swapped: bool = False
) -> Callable[..., None]:
    """Return AdamW with one mistake."""

    def update(weight: Any, gradient: Any, moments: Any, settings: Any, decay: float, step: int) -> None:
        from dataclasses import replace

        from ci.subjects.reference.adamw import correct_moments

        if swapped:
            settings = replace(settings, beta_1=settings.beta_2, beta_2=settings.beta_1)
        gradient = gradient + decay * weight if l2 else gradient
        if not l2:
            weight.mul_(1 - (1 if unscaled else settings.learning_rate) * decay)
        moments.first.lerp_(gradient, 1 - settings.beta_1)
        moments.second.mul_(settings.beta_2).add_(gradient * gradient, alpha=1 - settings.beta_2)
        first, second = correct_moments(moments, settings, step)
        root = (second + settings.epsilon).sqrt() if inside else second.sqrt() + settings.epsilon
        weight.sub_(settings.learning_rate * first / root)

    return update


def clip_alone(original: Any) -> Any:
    """Clip each parameter by its own norm."""

    def update(weight: Any, gradient: Any, moments: Any, settings: Any, decay: float, step: int) -> None:
        norm, limit = float(gradient.norm()), settings.max_gradient_norm
        original(weight, gradient * min(1.0, limit / norm) if norm else gradient, moments, settings, decay, step)

    return update


def half_rate(original: Any) -> Any:
    """Update with half of the learning rate."""

    def update(weight: Any, gradient: Any, moments: Any, settings: Any, decay: float, step: int) -> None:
        from dataclasses import replace

        rate = settings.learning_rate / 2
        original(weight, gradient, moments, replace(settings, learning_rate=rate), decay, step)

    return update


def keep_old_gradients(original: Any) -> Any:
    """Start a step with the gradients of the last one."""

    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        old = {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}
        compute = trainer.compute_gradients

        def compute_more(documents: Any) -> Any:
            for name, gradient in old.items():
                trainer.parameters[name].grad = gradient
            return compute(documents)

        trainer.compute_gradients = compute_more
        try:
            return original(trainer, optimizer, documents)
        finally:
            del trainer.compute_gradients

    return step


def count_all_tokens(original: Any) -> Any:
    """Count masked tokens in the loss too."""
    from dataclasses import replace

    return lambda path: [replace(d, counted=torch.ones_like(d.counted)) for d in original(path)]


def mean_of_document(original: Any) -> Any:
    """Divide the loss by the tokens of its own document."""
    return lambda self, logits, targets, counted: original(self, logits, targets, counted) / counted.sum()


def report_clipped_norm(original: Any) -> Any:
    """Report the gradient norm as it is after clipping."""

    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        figures, gradients = original(trainer, optimizer, documents)
        figures.gradient_norm = min(figures.gradient_norm, optimizer.settings.max_gradient_norm)
        return figures, gradients

    return step


def predict_same_token(original: Any) -> Any:
    """Compare each prediction with the token that it saw."""
    return lambda self, logits, targets, counted: original(self, logits, targets.roll(1), counted)
