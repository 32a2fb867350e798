"""The real Fast-LLM's training step in every layout, against Hugging Face in float64.

    PYTHONPATH=FAST_LLM ENV/bin/python -m benchmarks.layouts [--models llama,mixtral] [--layouts tp2,pp2] [--steps 2]

By default it runs on the CPU, over gloo; with `--device cuda` over NCCL, without compiled functions.

It runs in Fast-LLM's interpreter, without a sandbox. A row is one layout of one model: the loss's relative error, the
worst parameter's gradient error (relative L2) divided by Hugging Face's own in float32, the same for the gradient's
norm, and the error of the update: against AdamW in float64 on the subject's own gradients, once as counted, once with
the step counted twice. `--repeat NAME` shows one finding of docs/findings.md alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.mutation.tiny_models import TINY_MODELS, TinyModel, write_tiny_model
from ci.errors import HubTestsError
from ci.layouts import LAYOUTS, Layout
from ci.subjects.base import ConvertRequest
from ci.subjects.fast_llm.offer import LAYOUTS_OFFERED
from ci.subjects.fast_llm.subject import FastLLMSubject
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.training import compute_balancing_loss
from ci.subjects.training import OptimizerSettings, TrainRequest, TrainResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


EVEN = {"vocab_size": 152, "num_key_value_heads": 2, "num_attention_heads": 4}
"""Sizes that two ranks can divide."""
MODELS = {
    "llama": replace(TINY_MODELS["biased"], config_changes={"attention_bias": True, "mlp_bias": True}),
    "llama-tied": TinyModel("llama-tied", "llama", {"tie_word_embeddings": True}),
    "mistral": TINY_MODELS["window"],
    "qwen2": replace(TINY_MODELS["tied"], config_changes={}),
    "qwen2-tied": TINY_MODELS["tied"],
    "mixtral": TINY_MODELS["moe"],
    "mixtral-tied": replace(
        TINY_MODELS["moe"], config_changes={**TINY_MODELS["moe"].config_changes, "tie_word_embeddings": True}
    ),
}
LENGTH = 32
SETTINGS = OptimizerSettings()
BALANCE = 0.05
TOLERATED = 10.0
"""The suite's tolerance in float32: a gradient's error over that of Hugging Face in float32."""


@dataclass
class Case:
    """One tiny model as a Hugging Face directory and converted; Hugging Face's results by number of documents."""

    name: str
    folder: Path
    seed: int
    steps: int
    padded: bool = True
    device: str = "cpu"
    results: dict[tuple[int, str, float], tuple[TrainResult, list[dict[str, Tensor]]]] = field(default_factory=dict)

    def prepare(self, subject: FastLLMSubject) -> None:
        """Write the model and the documents: of unequal lengths, with a loss mask."""
        model = MODELS[self.name]
        changed = replace(model, config_changes={**model.config_changes, **EVEN}, dtype="float32")
        write_tiny_model(changed, self.folder / "source", seed=self.seed)
        subject.convert(ConvertRequest(str(self.folder / "source"), str(self.folder / "converted"), model.model_type))
        generator = torch.Generator().manual_seed(100 + self.seed)
        count = 4 * self.steps
        ids = torch.randint(0, EVEN["vocab_size"], (count, LENGTH), generator=generator)
        lengths = torch.randint(LENGTH // 2, LENGTH - 1, (count,), generator=generator)
        lengths[-1] = LENGTH
        lengths = lengths if self.padded else torch.full_like(lengths, LENGTH)
        ids[torch.arange(LENGTH) >= lengths[:, None]] = 0
        mask = (torch.rand(count, LENGTH - 1, generator=generator) > 0.15).long()
        save_file({"input_ids": ids, "lengths": lengths, "loss_mask": mask}, self.folder / "inputs.safetensors")

    def request(self, layout: str, *, subject: bool, **rest: Any) -> TrainRequest:
        """Return a request to the subject, or the same one to Hugging Face."""
        checkpoint = self.folder / ("converted" if subject else "source")
        output = tempfile.mkdtemp(prefix="out.", dir=self.folder)
        return TrainRequest(
            str(checkpoint),
            str(self.folder / "inputs.safetensors"),
            str(Path(output) / "run"),
            MODELS[self.name].model_type,
            layout=layout,
            steps=self.steps,
            seconds=120,
            device=self.device if subject else "cpu",
            variant={"compile": "eager"} if subject and self.device != "cpu" else {},
            **rest,
        )

    def run_hugging_face(
        self, layout: Layout, dtype: str, balance: float
    ) -> tuple[TrainResult, list[dict[str, Tensor]]]:
        """Return Hugging Face's result and gradients by step, which depend on the number of documents alone."""
        key = (layout.documents, dtype, balance)
        if key not in self.results:
            request = self.request(layout.name, subject=False, dtype=dtype, auxiliary_loss=balance)
            with HuggingFace() as hugging_face:
                self.results[key] = hugging_face.train(request), read_tensors(request, "gradients")
        return self.results[key]


@dataclass(frozen=True)
class Row:
    """What one layout of one model measured, or how it failed."""

    model: str
    layout: str
    loss: float = 0.0
    gradient: float = 0.0
    parameter: str = ""
    norm: float = 0.0
    update: float = 0.0
    double_step: float = 0.0
    copies: int = 0
    seconds: float = 0.0
    failure: str = ""

    @property
    def fine(self) -> bool:
        """Whether loss and gradients are as right as Hugging Face in float32, and all copies agree."""
        return not self.failure and self.gradient <= TOLERATED and self.loss < 1e-5 and not self.copies

    def show(self) -> str:
        """Return the row of the table."""
        if self.failure:
            return f"| {self.model} | {self.layout} | {self.failure} | | | | | {self.seconds:.1f} |"
        return (
            f"| {self.model} | {self.layout} | {self.loss:.1e} | {self.gradient:.2f} ({self.parameter}) "
            f"| {self.norm:.1e} | {self.update:.1e} | {self.double_step:.1e} | {self.seconds:.1f} |"
        )


def read_tensors(request: TrainRequest, kind: str) -> list[dict[str, Tensor]]:
    """Read the gradients or weights of each step."""
    return [
        load_file(Path(request.output) / f"step-{step}" / kind / "model.safetensors")
        for step in range(1, request.steps + 1)
    ]


def measure_row(case: Case, subject: FastLLMSubject, name: str) -> Row:
    """Run one layout and hold its first step against Hugging Face."""
    layout, started = LAYOUTS[name], time.perf_counter()
    request = case.request(name, subject=True)
    try:
        result = subject.train(request)
    except HubTestsError as error:
        return Row(case.name, name, failure=str(error)[:160], seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    right, right_gradients = case.run_hugging_face(layout, "float64", 0.0)
    _, floor_gradients = case.run_hugging_face(layout, "float32", 0.0)
    gradients = read_tensors(request, "gradients")
    if gradients[0].keys() != right_gradients[0].keys():
        odd = sorted(gradients[0].keys() ^ right_gradients[0].keys())
        return Row(case.name, name, failure=f"other gradients than Hugging Face's: {odd[:3]}", seconds=seconds)
    errors = {key: relative(gradients[0][key], value) for key, value in right_gradients[0].items()}
    floor = max(relative(floor_gradients[0][key], value) for key, value in right_gradients[0].items())
    worst = max(errors, key=lambda key: errors[key])
    weights = [load_file(case.folder / "source" / "model.safetensors"), *read_tensors(request, "weights")]
    assert result.gradient_norms[0] is not None
    assert right.gradient_norms[0] is not None
    return Row(
        case.name,
        name,
        loss=abs(result.losses[0] / right.losses[0] - 1),
        gradient=errors[worst] / floor,
        parameter=worst.removeprefix("model."),
        norm=abs(result.gradient_norms[0] / right.gradient_norms[0] - 1),
        update=measure_update(weights, gradients, 0),
        double_step=measure_update(weights, gradients, 1),
        copies=len(result.disagreements),
        seconds=seconds,
    )


def relative(value: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error in float64."""
    return float((value.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300))


def measure_update(weights: list[dict[str, Tensor]], gradients: list[dict[str, Tensor]], shift: int) -> float:
    """Return the largest relative error of a step's update; `shift` counts that many steps too many."""
    worst = 0.0
    moments = {name: (torch.zeros_like(g.double()), torch.zeros_like(g.double())) for name, g in gradients[0].items()}
    for step, gradient in enumerate(gradients, start=1):
        difference, norm = 0.0, 0.0
        for name, value in gradient.items():
            before = weights[step - 1][name].double()
            expected = compute_update(before, value.double(), moments[name], step + shift)
            actual = weights[step][name].double() - before
            difference += float((actual - expected).pow(2).sum())
            norm += float(expected.pow(2).sum())
        worst = max(worst, (difference / norm) ** 0.5)
    return worst


def compute_update(weight: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    """Return AdamW's change of a weight, and move its moments: https://arxiv.org/abs/1711.05101"""
    first, second = moments
    first.mul_(SETTINGS.beta_1).add_(gradient, alpha=1 - SETTINGS.beta_1)
    second.mul_(SETTINGS.beta_2).addcmul_(gradient, gradient, value=1 - SETTINGS.beta_2)
    scaled = second.div(1 - SETTINGS.beta_2**step).sqrt().add(SETTINGS.epsilon)
    decay = SETTINGS.weight_decay if weight.ndim > 1 else 0.0
    return -SETTINGS.learning_rate * (first / (1 - SETTINGS.beta_1**step) / scaled + decay * weight)


def measure_balance(case: Case, subject: FastLLMSubject, name: str) -> tuple[list[float], float, float]:
    """Measure how many times each document's balancing loss is in the gradient; return residual and size too.

    The size is the norm of what the balancing loss adds over that of the sum of all documents' balancing losses.
    """
    layout, gradients = LAYOUTS[name], []
    for balance in (BALANCE, 0.0):
        request = case.request(name, subject=True, auxiliary_loss=balance)
        subject.train(request)
        gradients.append(read_tensors(request, "gradients")[0])
    parts = layout.micro_sequences * layout.sequence_data
    terms = [compute_balancing_gradients(case, document, parts) for document in range(layout.documents)]
    names = sorted(gradients[0].keys() & terms[0].keys())
    theirs = torch.cat([(gradients[0][key].double() - gradients[1][key].double()).flatten() for key in names])
    right = torch.stack([torch.cat([term[key].flatten() for key in names]) for term in terms], dim=1)
    times = torch.linalg.lstsq(right, theirs[:, None]).solution
    rest = float((theirs - (right @ times).flatten()).norm() / theirs.norm())
    return times.flatten().tolist(), rest, float(theirs.norm() / right.sum(1).norm())


def compute_balancing_gradients(case: Case, document: int, parts: int) -> dict[str, Tensor]:
    """Return Hugging Face's gradients of one document's balancing loss, in float64, summed over its parts."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        case.folder / "source", dtype=torch.float64, experts_implementation="eager", attn_implementation="eager"
    )
    inputs = load_file(case.folder / "inputs.safetensors")
    ids = inputs["input_ids"][document, : int(inputs["lengths"][document])]
    output = model(input_ids=ids[None], output_router_logits=True, use_cache=False)
    per_token = model.config.num_experts_per_tok
    terms = [compute_balancing_loss(part, per_token) for logits in output.router_logits for part in logits.chunk(parts)]
    torch.autograd.backward(BALANCE * torch.stack(terms).sum())
    return {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


def iterate_rows(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Measure every asked layout of every asked model, over the seeds."""
    subject = FastLLMSubject()
    for name in arguments.models:
        for seed in range(arguments.seeds):
            (case_folder := folder / f"{name}-{seed}").mkdir()
            case = Case(name, case_folder, seed, arguments.steps, device=arguments.device)
            case.prepare(subject)
            for layout in arguments.layouts:
                if LAYOUTS[layout].separate_tied and not name.endswith("tied"):
                    continue
                yield measure_row(case, subject, layout)


def show_balance(folder: Path) -> None:
    """Print how often each layout adds the balancing loss of each document; 1 / documents would be its mean."""
    subject = FastLLMSubject()
    print("| documents | layout | times each document's balancing loss is added | remainder | size |")
    print("|---|---|---:|---:|---:|")
    for padded in (False, True):
        (place := folder / str(padded)).mkdir()
        case = Case("mixtral", place, 0, 1, padded=padded)
        case.prepare(subject)
        names = ("single",) if padded else ("single", "tp2", "accumulate2", "breadth2", "pp2", "dp2", "dp2_accumulate2")
        for name in (*names, *(() if padded else ("split2", "sdp2"))):
            times, rest, size = measure_balance(case, subject, name)
            kind = "padded" if padded else "full length"
            print(f"| {kind} | {name} | {', '.join(f'{t:.4f}' for t in times)} | {rest:.1e} | {size:.3f} |", flush=True)


def show_rows(arguments: argparse.Namespace, folder: Path) -> int:
    """Print the table; return the exit code."""
    print(
        "| model | layout | loss | gradient ÷ floor (worst) | norm | update | the same, step counted twice | seconds |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    rows: list[Row] = []
    for row in iterate_rows(arguments, folder):
        rows.append(row)
        print(row.show(), flush=True)
    red = [row for row in rows if not row.fine]
    twice = [row for row in rows if not row.failure and row.double_step < row.update / 10]
    print(f"\n{len(rows)} runs, {len(red)} red; {len(twice)} count the optimizer's step twice")
    return 1 if red else 0


REPEATS: Mapping[str, Mapping[str, Any]] = {
    "double-step": {"models": ["llama"], "layouts": ["single"], "steps": 1},
    "stp-experts": {"models": ["mixtral"], "layouts": ["single", "tp2", "stp2"], "steps": 1},
    "balancing-loss": {},
}


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layouts", description=__doc__)
    split = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--models", type=split, default=list(MODELS))
    parser.add_argument("--layouts", type=split, default=list(LAYOUTS_OFFERED))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the subject; cuda: one GPU a rank")
    parser.add_argument("--repeat", choices=sorted(REPEATS))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="layouts.") as folder:
        if arguments.repeat == "balancing-loss":
            show_balance(Path(folder))
            return 0
        for name, value in REPEATS.get(arguments.repeat, {}).items():
            setattr(arguments, name, value)
        return show_rows(arguments, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
