"""The opt-in tests on disk: edited copies of a checkpoint, converted and run on both sides."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from ci.equivalence import gradients, sensitivity
from ci.equivalence.oracle import TrueFloat64
from ci.equivalence.roundtrip import resolved
from ci.equivalence.sensitivity import Change, KeyFinding
from ci.equivalence.truth import Truth
from ci.equivalence.walk import logits_error
from ci.equivalence.weights import Weights
from ci.errors import HubTestsError, InfrastructureError, SubjectError
from ci.subjects.base import ConvertRequest, Differentiable, DType, GradientRequest, Subject, TraceRequest
from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ci.equivalence.floors import Limits
    from ci.equivalence.inputs import Case
    from ci.evidence import Measure

UNCHANGED = "the unchanged config"
PERTURBATION = 0.1
"""Relative to a tensor's own RMS: far above any noise, too little to change what the model does."""


@dataclass
class Sensitivity:
    """Edits config.json key by key. The weights are linked, not copied; one edited conversion on disk at a time."""

    truth: Truth
    subject: Subject
    formats: tuple[str, str]
    workdir: Path
    _answers: dict[str, TraceReader] = field(default_factory=dict)

    def findings(self) -> Iterator[KeyFinding]:
        """One finding a change; those that became something else last, when every other answer is known."""
        config = self.truth.config
        different: list[KeyFinding] = []
        self._answers[UNCHANGED] = self.truth.oracle(self._case)
        for number, change in enumerate(sensitivity.changes(config, resolved(self.truth.checkpoint))):
            with self._edited(change, number) as directory:
                found = self._finding(change, directory)
            if found.found != "differs":
                yield found
            else:
                different.append(found)
        yield from map(self._recognised, different)

    @property
    def _case(self) -> Case:
        return self.truth.cases[0]

    @property
    def _limits(self) -> Limits:
        return self.truth.limits(self._case, "float32")

    @contextmanager
    def _edited(self, change: Change, number: int) -> Iterator[Path]:
        directory = self.workdir / f"edited-{number}"
        directory.mkdir(parents=True)
        try:
            for file in self.truth.checkpoint.glob("*.safetensors*"):
                (directory / file.name).symlink_to(file.resolve())
            edited = {**self.truth.config, **change.keys}
            (directory / "config.json").write_text(json.dumps(edited), encoding="utf-8")
            yield directory
        finally:
            shutil.rmtree(directory)

    def _finding(self, change: Change, directory: Path) -> KeyFinding:
        try:
            answer = self.truth.trace(
                self._case,
                self.truth.oracle_dtype,
                {"attention": "eager", "batch": "together"},
                f"answer-{len(self._answers)}",
                checkpoint=directory,
            )
        except InfrastructureError:
            raise
        except HubTestsError as illegal:
            return KeyFinding(change, "not legal", said=str(illegal)[-200:])
        moved = self._logits_error(answer, UNCHANGED)
        if not moved > self._limits.error("logits") or math.isinf(moved):
            shutil.rmtree(answer.path)
            return KeyFinding(change, "not legal" if math.isinf(moved) else "inert")
        self._answers[change.name] = answer
        try:
            return self._compared(change, self._subject_answer(directory, change.name))
        except InfrastructureError:
            raise
        except HubTestsError as refused:
            return KeyFinding(change, "refused", said=str(refused)[:200])

    def _subject_answer(self, directory: Path, name: str) -> TraceReader:
        converted, output = self.workdir / "converted", self.workdir / f"answer to {name}"
        shutil.rmtree(converted, ignore_errors=True)
        try:
            self.subject.convert(ConvertRequest(str(directory), str(converted), *self.formats))
            inputs = str(self.truth.input_file(self._case))
            self.truth.turns.take(self.subject)
            self.subject.trace(TraceRequest(str(converted), inputs, str(output), device=self.truth.device))
        finally:
            shutil.rmtree(converted, ignore_errors=True)
        return TraceReader(output)

    def _compared(self, change: Change, mine: TraceReader) -> KeyFinding:
        """Alike, ignored, or different; a different answer is kept, to be recognised as another change's."""
        limit, error = self._limits.error("logits"), self._logits_error(mine, change.name)
        if error > limit and self._logits_error(mine, UNCHANGED) > limit:
            return KeyFinding(change, "differs", error, limit)
        shutil.rmtree(mine.path)
        return KeyFinding(change, "alike" if error <= limit else "silently ignored", error, limit)

    def _recognised(self, found: KeyFinding) -> KeyFinding:
        mine = TraceReader(self.workdir / f"answer to {found.change.name}")
        errors = {name: self._logits_error(mine, name) for name in self._answers}
        return replace(found, acts_as=next((name for name, error in errors.items() if error <= found.limit), ""))

    def _logits_error(self, actual: TraceReader, name: str) -> float:
        return logits_error(actual, self._answers[name], self._case.keep)


@dataclass
class Gradients:
    """The backward pass over the longest single sequence, in float32, against Hugging Face's in float64."""

    truth: Truth
    subject: Differentiable
    subject_path: str
    formats: tuple[str, str]
    workdir: Path

    def measures(self) -> tuple[Measure, ...]:
        """Every parameter's gradient.

        Raises SubjectError where one has no counterpart, InfrastructureError where Hugging Face disagrees with itself.
        """
        oracle = self._theirs("oracle", self._oracle_dtype, {"attention": "eager"})
        floors: dict[str, float] = {}
        for variant in self.truth.variants(self._case):
            one = self._theirs("noise", "float32", {**variant, "batch": "together"})
            for name, error in gradients.errors(one, oracle).items():
                if not error < gradients.TRUSTED:
                    raise InfrastructureError(
                        f"Hugging Face's own gradients of {name} differ by {error:.2g} from float32 to "
                        f"{self._oracle_dtype}: no yardstick for the subject's"
                    )
                floors[name] = max(floors.get(name, 0.0), error)
            shutil.rmtree(one)
        mine = self.workdir / "mine"
        self.truth.turns.take(self.subject)
        self.subject.gradients(self._request(self.subject_path, mine, "float32", {}))
        if strange := gradients.unexpected(mine, oracle):
            raise SubjectError(f"gradient of a parameter that Hugging Face does not have: {strange[0]}")
        factor = self.truth.params.compare_factor
        return tuple(gradients.measures(mine, oracle, floors, dtype="float32", compare_factor=factor))

    @property
    def _case(self) -> Case:
        """One sequence without padding: the long one where there is one, else the last document."""
        return self.truth.cases[-1]

    @property
    def _oracle_dtype(self) -> DType:
        """float64 where the weights and as much again for their gradients fit in half of the free memory."""
        return self.truth.oracle_dtype if 2 * self.truth.float64_bytes < self.truth.free_bytes / 2 else "float32"

    def _theirs(self, name: str, dtype: DType, variant: dict[str, str]) -> Path:
        output = self.workdir / name
        request = self._request(str(self.truth.checkpoint), output, dtype, variant)
        self.truth.turns.take(self.truth.hugging_face)
        with TrueFloat64() if dtype == "float64" else nullcontext():
            self.truth.hugging_face.gradients(request)
        return output

    def _request(self, checkpoint: str, output: Path, dtype: DType, variant: dict[str, str]) -> GradientRequest:
        inputs = str(self.truth.input_file(self._case))
        checkpoint_format, model_config = self.formats
        return GradientRequest(
            checkpoint, inputs, str(output), checkpoint_format, model_config, dtype, self.truth.device, variant
        )


def perturbed(checkpoint: Path, target: Path, *, seed: int = 0) -> Path:
    """A copy of a Hugging Face directory in which every tensor is shaken, file by file.

    Weights that a subject does not read, or reads from elsewhere, cannot follow: norms left at one, biases at zero,
    experts that no input reached before.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weights = Weights(checkpoint)
    for file in sorted(set(weights.files.values())):
        names = [name for name, held in weights.files.items() if held == file]
        shaken = {name: _shaken(weights.tensor(name), generator) for name in names}
        save_file(shaken, target / file.name, metadata={"format": "pt"})
    for companion in checkpoint.iterdir():
        if companion.is_file() and companion.suffix != ".safetensors":
            shutil.copy(companion, target / companion.name)
    return target


def _shaken(tensor: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    scale = tensor.float().square().mean().sqrt()
    return (tensor.float() + PERTURBATION * (scale if bool(scale > 0) else 1.0) * noise).to(tensor.dtype)


def fresh_truth(truth: Truth, checkpoint: Path, workdir: Path) -> Truth:
    """The truth of another checkpoint of the same model, on the same device, with the same inputs."""
    return Truth(checkpoint, replace(truth.params), truth.hugging_face, truth.device, workdir, seed=truth.seed)
