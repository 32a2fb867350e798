"""Hugging Face's side of a training step: documents, optimizer settings, what must come out, and its own noise.

Everything depends on the number of documents that a layout's step takes, and on nothing else of the layout.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file

from ci.equivalence.adamw_oracle import OptimizerHistory, compute_scales, compute_updates
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.gradient_compare import find_padding_token, replace_token
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.image_inputs import place_images_in_halves
from ci.equivalence.reference_runner import explain_failure
from ci.equivalence.relative_error import compute_relative_error
from ci.equivalence.tolerances import (
    AUXILIARY_LOSS,
    CLIPPED_SHARE,
    DOCUMENT_PREDICTIONS,
    FLOAT64_MEMORY_SHARE,
    MASKED_SHARE,
    MAX_GRADIENT_NOISE,
)
from ci.errors import InfrastructureError, SubjectError
from ci.subjects.training import OptimizerSettings, TrainRequest, TrainResult

if TYPE_CHECKING:
    from ci.equivalence.image_inputs import ImageRequirements
    from ci.layouts import Layout
    from ci.subjects.training import HuggingFaceTrainer

STEPS = 2
"""One step cannot show a buffer that is not cleared, or moments that are lost."""
MOST_DOCUMENTS = 4
"""Documents that the inputs hold for a step of the layout with the most of them."""


@dataclass(frozen=True)
class TrainingExpectation:
    """What a request must give: Hugging Face's run of it, its gradients by step below `directory`, and noise floors.

    `floors` maps a measured quantity to its relative error in Hugging Face's float32 variants.
    """

    request: TrainRequest
    result: TrainResult
    directory: Path
    checkpoint: Path
    floors: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter's name, in the order of the file."""
        return tuple(self.open_gradients(1).files)

    def open_gradients(self, step: int) -> CheckpointTensors:
        """Return Hugging Face's gradients of a step."""
        return CheckpointTensors(name_gradients(self.directory, step))

    def read_history(self, name: str, gradients: Path, norms: tuple[float, ...]) -> OptimizerHistory:
        """Return what the optimizer saw of a parameter in the run that wrote below `gradients`."""
        steps = range(1, self.request.steps + 1)
        read = tuple(CheckpointTensors(name_gradients(gradients, step)).read(name) for step in steps)
        scales = compute_scales(norms, self.request.optimizer.max_gradient_norm)
        return OptimizerHistory(CheckpointTensors(self.checkpoint).read(name), read, scales)


@dataclass
class TrainingReference:
    """Runs Hugging Face's steps, once for each number of documents."""

    reference: ReferenceRun
    formats: tuple[str, str]
    workdir: Path
    _expected: dict[tuple[int, float], TrainingExpectation] = field(default_factory=dict)

    def get(self, layout: Layout, auxiliary_loss: float = 0.0) -> TrainingExpectation:
        """Return what a layout's steps must give."""
        key = (layout.documents, auxiliary_loss)
        if key not in self._expected:
            self._expected[key] = self._measure(layout, auxiliary_loss)
        kept = self._expected[key]
        return replace(kept, request=replace(kept.request, layout=layout.name))

    @property
    def auxiliary_loss(self) -> float:
        """The coefficient of the balancing loss to ask for: 0 for a model without experts."""
        return AUXILIARY_LOSS if self.reference.requirements.experts else 0.0

    @cached_property
    def steps(self) -> int:
        """Two steps where weights, gradients and moments fit the memory, else one."""
        return STEPS if 4 * self.reference.float64_bytes < FLOAT64_MEMORY_SHARE * self.reference.free_bytes else 1

    def make_parts(self, layout: Layout, auxiliary_loss: float) -> Path:
        """Run the first step again and return the directory of the parts of its gradient."""
        expected = self.get(layout, auxiliary_loss)
        output = self.workdir / f"parts-{layout.documents}-{auxiliary_loss:g}"
        if not output.exists():
            request = replace(expected.request, output=str(output), steps=1, checkpoint=str(self.reference.checkpoint))
            self._run(replace(request, dtype=self.reference.gradient_dtype), parts=True)
        return output / "parts"

    @cached_property
    def inputs(self) -> Path:
        """The inputs file of every request: documents of unequal length, some of their tokens masked."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        file = self.workdir / "documents.safetensors"
        needs, padding = self.reference.requirements, find_padding_token(self.reference.config)
        save_file(draw_documents(needs.vocabulary, self.reference.seed, needs.images, padding), file)
        return file

    def _measure(self, layout: Layout, auxiliary_loss: float) -> TrainingExpectation:
        """Run float64 once for the gradient's norm, then as the subject must run, then each variant in float32."""
        folder = self.workdir / f"expected-{layout.documents}-{auxiliary_loss:g}"
        request = TrainRequest(
            *(str(self.reference.checkpoint), str(self.inputs), str(folder), *self.formats),
            layout=layout.name,
            dtype=self.reference.gradient_dtype,
            device=self.reference.device,
            auxiliary_loss=auxiliary_loss,
            variant=self.reference.runner.choose_variant("eager"),
        )
        probe = self._run(replace(request, output=str(self.workdir / "probe")))
        shutil.rmtree(self.workdir / "probe")
        settings = choose_settings(probe.gradient_norms[0] or 1.0, self.reference.float64_bytes // 8)
        request = replace(request, steps=self.steps, optimizer=settings)
        expected = TrainingExpectation(request, self._run(request), folder, self.reference.checkpoint, {})
        return replace(expected, floors=self._measure_floors(expected))

    def _measure_floors(self, expected: TrainingExpectation) -> dict[str, float]:
        """Return the largest error of Hugging Face's float32 variants, by quantity."""
        floors: dict[str, float] = {}
        for variant in self.reference.list_variants(self.reference.cases[0]):
            noisy = self.workdir / "noise"
            request = replace(expected.request, output=str(noisy), dtype="float32", variant=variant)
            result = self._run(request)
            for name, error in compare_runs(expected, result, noisy).items():
                floors[name] = max(floors.get(name, 0.0), error)
            shutil.rmtree(noisy)
        if wrong := next((name for name, error in floors.items() if not error < MAX_GRADIENT_NOISE), None):
            raise InfrastructureError(
                f"inconclusive: Hugging Face's own {wrong} differs by {floors[wrong]:.2g} from float32 to "
                f"{self.reference.gradient_dtype}"
            )
        return floors

    def _run(self, request: TrainRequest, *, parts: bool = False) -> TrainResult:
        """Run steps of Hugging Face's side. Raises what `explain_failure` makes of a failure."""
        side = cast("HuggingFaceTrainer", self.reference.hugging_face)
        self.reference.lease.acquire(self.reference.hugging_face)
        with self.reference.costs.clock.measure("forward", f"Hugging Face {request.dtype} training"):
            try:
                return side.train_in_parts(request) if parts else side.train(request)
            except SubjectError as failed:
                raise explain_failure(self.reference.hugging_face, "cannot train this model", failed) from failed


def compare_runs(expected: TrainingExpectation, result: TrainResult, directory: Path) -> dict[str, float]:
    """Return the relative error of every quantity of another run of the same request, against the expected one.

    An update is what the optimizer, in float32, makes of that run's gradients: its rounding is part of the noise.
    """
    errors = {}
    for step in range(1, expected.request.steps + 1):
        errors[f"loss, step {step}"] = compare_numbers(result.losses[step - 1], expected.result.losses[step - 1])
        norms = result.gradient_norms[step - 1], expected.result.gradient_norms[step - 1]
        errors[f"gradient norm, step {step}"] = compare_numbers(*norms)
        actual, wanted = CheckpointTensors(name_gradients(directory, step)), expected.open_gradients(step)
        for name in expected.names:
            errors[f"gradient of {name}, step {step}"] = compute_relative_error(actual.read(name), wanted.read(name))
    for name in expected.names:
        settings, norms_there = expected.request.optimizer, tuple(norm or 0.0 for norm in result.gradient_norms)
        noisy = compute_updates(expected.read_history(name, directory, norms_there), settings, torch.float32)
        for step, (one, other) in enumerate(zip(noisy, expected_updates(expected, name), strict=True), 1):
            errors[f"update of {name}, step {step}"] = compute_relative_error(one, other)
    return errors


def expected_updates(expected: TrainingExpectation, name: str) -> list[torch.Tensor]:
    """Return the updates that AdamW makes of Hugging Face's own gradients of a parameter."""
    norms = tuple(norm or 0.0 for norm in expected.result.gradient_norms)
    return compute_updates(expected.read_history(name, expected.directory, norms), expected.request.optimizer)


def name_gradients(directory: Path, step: int) -> Path:
    """Return the directory of a step's gradients in a run's output."""
    return directory / f"step-{step}" / "gradients"


def compare_numbers(actual: float | None, expected: float | None) -> float:
    """Return the relative error of a number; infinite where it is missing or not finite."""
    if actual is None or expected is None or not math.isfinite(actual):
        return math.inf
    return abs(actual - expected) / abs(expected) if expected else (math.inf if actual else 0.0)


def choose_settings(norm: float, elements: int) -> OptimizerSettings:
    """Return optimizer settings under which a step shows how large each gradient was.

    A first step of AdamW with a small epsilon is of one size whatever the gradient is, so neither clipping nor a factor
    would show, and where the gradient is noise the update is its sign. With an epsilon of the size of a typical clipped
    gradient, the update follows the gradient.
    """
    typical = CLIPPED_SHARE * norm / math.sqrt(elements)
    epsilon = float(f"{typical:.0e}") if typical > 0 else 1e-8
    return OptimizerSettings(epsilon=epsilon, max_gradient_norm=float(f"{CLIPPED_SHARE * norm:.3e}"))


def draw_documents(
    vocabulary: int, seed: int, images: ImageRequirements | None = None, padding: int | None = None
) -> dict[str, torch.Tensor]:
    """Draw documents of unequal length for all steps: `input_ids`, `lengths` and `loss_mask` of a TrainRequest.

    A document's predictions are a multiple of eight, so that ranks can divide it. A model that sees gets an image in
    each half of every document. The id `padding` is in none: torch's Embedding gives its row no gradient.
    """
    generator, count = torch.Generator().manual_seed(seed), (STEPS + 1) * MOST_DOCUMENTS
    lengths = torch.tensor([1 + DOCUMENT_PREDICTIONS[i % len(DOCUMENT_PREDICTIONS)] for i in range(count)])
    ids = replace_token(torch.randint(0, vocabulary, (count, int(lengths.max())), generator=generator), padding)
    masked = torch.rand(count, ids.shape[1] - 1, generator=generator) < MASKED_SHARE
    beyond = torch.arange(ids.shape[1]) >= lengths[:, None]
    tensors: dict[str, torch.Tensor] = {}
    if images is not None:
        ids, seen = place_images_in_halves(ids, images, seed, lengths.tolist())
        tensors, masked = seen.to_tensors(), masked | (ids[:, 1:] == images.token)
    mask = (~masked).long() * ~beyond[:, 1:]
    return {**tensors, "input_ids": ids.masked_fill(beyond, 0), "lengths": lengths, "loss_mask": mask}
