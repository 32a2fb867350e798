"""Faults of training steps, planted one at a time into the reference: parallelism, optimizer, accumulation, resume.

Each stands for faults that real projects have shipped; where one has a public thread, the comment before it says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import torch

from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

REFERENCE = "ci.subjects.reference"
Check = Literal["steps", "balancing", "resume", "conversion"]
Kind = Literal["parallelism", "training step"]


@dataclass(frozen=True)
class Plant:
    """A replacement: `place` is "module:name" or "module:Class.name" below the reference; `make` gets the original."""

    place: str
    make: Callable[[Any], Any]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Put the replacement in place within the `with` block; ranks are forks, so they have it too."""
        module, _, path = self.place.partition(":")
        owner, (*parents, name) = import_module(f"{REFERENCE}.{module}"), path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = vars(owner)[name]
        setattr(owner, name, self.make(original))
        try:
            yield
        finally:
            setattr(owner, name, original)


@dataclass(frozen=True)
class TrainingFault:
    """A fault, the layout and tiny model in which it is one, and the words that name its place in a diagnosis."""

    name: str
    kind: Kind
    layout: str
    model: str
    named: str
    plants: tuple[Plant, ...]
    check: Check = "steps"
    thread: str = ""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Put every replacement in place within the `with` block."""
        with ExitStack() as stack:
            for plant in self.plants:
                stack.enter_context(plant.planted())
            yield


def _parallel(name: str, layout: str, model: str, named: str, *plants: Plant, **rest: Any) -> TrainingFault:
    return TrainingFault(name, "parallelism", layout, model, named, plants, **rest)


def _step(name: str, layout: str, model: str, named: str, *plants: Plant, **rest: Any) -> TrainingFault:
    return TrainingFault(name, "training step", layout, model, named, plants, **rest)


def _replace(place: str, new: Callable[..., Any]) -> Plant:
    """Replace a function by another one that does not need the original."""
    return Plant(place, lambda _: new)


# Replacements of the model's parallel operations.


def _project_without_sum(self: Any, name: str, mixed: Any) -> Any:
    output, bias = torch.nn.functional.linear(mixed, self.weights[f"{name}.weight"]), self.weights.get(f"{name}.bias")
    return output if bias is None else output + bias


def _project_with_sum(self: Any, name: str, mixed: Any) -> Any:
    output, bias = torch.nn.functional.linear(mixed, self.weights[f"{name}.weight"]), self.weights.get(f"{name}.bias")
    return self.groups.leave(output) if bias is None else self.groups.leave(output) + bias


def _project_bias_inside(self: Any, name: str, mixed: Any) -> Any:
    weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
    return self.groups.leave(torch.nn.functional.linear(mixed, weight, bias))


def _embed_without_sum(self: Any, ids: Any) -> Any:
    from ci.subjects.reference.sharded_model import shift_ids

    local, held = shift_ids(ids, self.vocabulary)
    return torch.nn.functional.embedding(local, self.weights[EMBEDDINGS_WEIGHT]) * held[..., None]


def _cross_entropy_local(self: Any, logits: Any, targets: Any, counted: Any) -> Any:
    """Normalise over the rank's own part of the vocabulary."""
    from ci.subjects.reference.sharded_model import shift_ids

    local, held = shift_ids(targets, self.vocabulary)
    chosen = self.groups.leave(logits.gather(-1, local[:, None])[:, 0] * held)
    return ((logits.logsumexp(-1) - chosen) * counted).sum()


def _enter_but_scores(original: Any) -> Any:
    return lambda self, tensor: tensor if tensor.shape[-1] == 2 else original(self, tensor)


def _embed_with_dropout(original: Any) -> Any:
    def embed(self: Any, ids: Any) -> Any:
        generator = torch.Generator().manual_seed(self.groups.place.rank)
        hidden = original(self, ids)
        return hidden * (torch.rand(hidden.shape, generator=generator) > 0.1) / 0.9

    return embed


def _shift_second_rank(original: Any) -> Any:
    def shift(ids: Any, vocabulary: range) -> Any:
        begin = vocabulary.start + (1 if vocabulary.start else 0)
        return original(ids, range(begin, vocabulary.stop))

    return shift


def _cut_same_key_value(original: Any) -> Any:
    def cut(parameter: Any, tensor: Any, index: int, count: int) -> Any:
        return original(parameter, tensor, 0 if "key_value" in parameter.name else index, count)

    return cut


def _other_start(original: Any) -> Any:
    def cut(parameter: Any, tensor: Any, index: int, count: int) -> Any:
        part = original(parameter, tensor, index, count)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return part * 1.01 if rank else part

    return cut


# Replacements of the step.


class ClipLimit:
    """The limit of the step that runs now, for a fault that clips where no settings are at hand."""

    value = 1.0


def _reduce_nothing(_: Any, __: Any) -> None:
    """Leave the gradient of this model copy as it is."""


def _reduce_mean(groups: Any, gradient: Any) -> None:
    groups.sum(gradient, "data")
    gradient /= groups.place.layout.data


def _reduce_matrices(groups: Any, gradient: Any) -> None:
    if gradient.ndim > 1:
        groups.sum(gradient, "data")


def _clip_before_sum(original: Any) -> Any:
    def reduce(trainer: Any) -> Any:
        gradients = [p.grad for p in trainer.parameters.values()]
        norm, limit = torch.stack([g.norm() for g in gradients]).norm(), ClipLimit.value
        for gradient in gradients:
            gradient *= min(1.0, limit / float(norm))
        return original(trainer)

    return reduce


def _tell_clip_limit(original: Any) -> Any:
    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        ClipLimit.value = optimizer.settings.max_gradient_norm
        return original(trainer, optimizer, documents)

    return step


def _reduce_each_document(original: Any) -> Any:
    """Reduce after every micro-batch: what was reduced before is summed again."""

    def backward(self: Any, passed: Any) -> None:
        original(self, passed)
        for parameter in self.parameters.values():
            self.groups.sum(parameter.grad, "data")

    return backward


def _overwrite_gradients(original: Any) -> Any:
    def backward(self: Any, passed: Any) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None
        original(self, passed)

    return backward


def _tokens_of_rank(_: Any, documents: Sequence[Any]) -> Any:
    return torch.stack([document.counted.sum() for document in documents]).sum()


def _same_documents(documents: Any, first: int, place: Any) -> Any:
    layout = place.layout
    return [documents[first + layout.data * index] for index in range(layout.micro_batches)]


def _norm_over_axes(*axes: str) -> Callable[..., float]:
    def compute(trainer: Any, gradients: Any) -> float:
        from ci.subjects.reference.training_step import counts_for_norm

        squares = [g.double().pow(2).sum() for name, g in gradients.items() if counts_for_norm(trainer, name)]
        total = torch.stack(squares).sum()
        for axis in axes:
            trainer.groups.sum(total, axis)
        return float(total.sqrt())

    return compute


def _count_both_ends(original: Any) -> Any:
    return lambda trainer, name: name == EMBEDDINGS_WEIGHT or original(trainer, name)


def _send_zeros_back(original: Any) -> Any:
    def send(self: Any, tensor: Any, stage: int) -> None:
        original(self, tensor * 0 if stage < self.place.pipeline else tensor, stage)

    return send


def _halve_gradient_back(original: Any) -> Any:
    def send(self: Any, tensor: Any, stage: int) -> None:
        original(self, tensor / 2 if stage < self.place.pipeline else tensor, stage)

    return send


def _stop_second_rank(original: Any) -> Any:
    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        if trainer.groups.place.rank == 1:
            raise RuntimeError("planted: this rank stops")
        return original(trainer, optimizer, documents)

    return step


def _update_own_slice(self: Any, parameters: Any, gradients: Any, scale: float) -> None:
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


def _gather_reversed(original: Any) -> Any:
    def gather(self: Any, part: Any, axis: str) -> Any:
        whole = original(self, part, axis)
        return torch.cat(whole.chunk(len(whole) // len(part))[::-1])

    return gather


def _cut_next_slice(original: Any) -> Any:
    """Take the moments' slice of the next data rank for a gradient."""

    def update(self: Any, parameters: Any, gradients: Any, scale: float) -> None:
        count = self.slices
        moved = {}
        for name, gradient in gradients.items():
            flat = torch.nn.functional.pad(gradient.flatten(), (0, -gradient.numel() % count))
            moved[name] = flat.roll(len(flat) // count)[: gradient.numel()].view_as(gradient)
        original(self, parameters, moved, scale)

    return update


# Replacements of the optimizer.


def _correct_later(original: Any) -> Any:
    return lambda moments, settings, step: original(moments, settings, step + 1)


def _update_changed(
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


def _clip_alone(original: Any) -> Any:
    def update(weight: Any, gradient: Any, moments: Any, settings: Any, decay: float, step: int) -> None:
        norm, limit = float(gradient.norm()), settings.max_gradient_norm
        original(weight, gradient * min(1.0, limit / norm) if norm else gradient, moments, settings, decay, step)

    return update


def _half_rate(original: Any) -> Any:
    def update(weight: Any, gradient: Any, moments: Any, settings: Any, decay: float, step: int) -> None:
        from dataclasses import replace

        rate = settings.learning_rate / 2
        original(weight, gradient, moments, replace(settings, learning_rate=rate), decay, step)

    return update


def _keep_old_gradients(original: Any) -> Any:
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


def _count_all_tokens(original: Any) -> Any:
    from dataclasses import replace

    return lambda path: [replace(d, counted=torch.ones_like(d.counted)) for d in original(path)]


def _mean_of_document(original: Any) -> Any:
    return lambda self, logits, targets, counted: original(self, logits, targets, counted) / counted.sum()


def _report_clipped_norm(original: Any) -> Any:
    def step(trainer: Any, optimizer: Any, documents: Any) -> Any:
        figures, gradients = original(trainer, optimizer, documents)
        figures.gradient_norm = min(figures.gradient_norm, optimizer.settings.max_gradient_norm)
        return figures, gradients

    return step


def _predict_same_token(original: Any) -> Any:
    """Compare each prediction with the token that it saw."""
    return lambda self, logits, targets, counted: original(self, logits, targets.roll(1), counted)


# Replacements of saving and loading.


def _resume_without(*kinds: str, step: bool = False) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def cut(state: Any, held: Any, place: Any, optimizer: Any) -> Any:
            weights = original(state, held, place, optimizer)
            for moments in optimizer.moments.values():
                for kind in kinds:
                    getattr(moments, kind).zero_()
            optimizer.step = 0 if step else optimizer.step
            return weights

        return cut

    return make


def _resume_first_documents(original: Any) -> Any:
    from dataclasses import replace

    return lambda rank, request, directory: original(rank, replace(request, resume_steps=0), directory)


def _read_missing_as_zeros(original: Any) -> Any:
    def select(tensors: Any, kind: str) -> Any:
        found = original(tensors, kind)
        weights = original(tensors, "weights")
        return {name: found.get(name, torch.zeros_like(weight)) for name, weight in weights.items()}

    return select


def _read_unchecked(original: Any) -> Any:
    from safetensors.torch import load_file

    return lambda path, expected: load_file(path) if path.is_file() else original(path, expected)


def _repeat_first_slice(original: Any) -> Any:
    return lambda slices, like: original([slices[0]] * len(slices), like)


def _export_rounded(_: Any) -> Any:
    return lambda tensor: [tensor.bfloat16().float()]


FAULTS: tuple[TrainingFault, ...] = (
    # https://github.com/NVIDIA/Megatron-LM/issues/1464
    _parallel(
        "gradients are not summed over data ranks",
        *("dp2", "llama", r"sum over the data ranks is missing|ranks 0 and 1 hold different"),
        _replace("training_step:reduce_over_data", _reduce_nothing),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/1464",
    ),
    _parallel(
        "gradients are averaged after the loss was",
        *("dp2", "llama", "divided by the data ranks"),
        _replace("training_step:reduce_over_data", _reduce_mean),
    ),
    _parallel(
        "vectors are left out of the reduction",
        *("dp2", "mistral", "norm.*(data rank 0|ranks 0 and 1)"),
        _replace("training_step:reduce_over_data", _reduce_matrices),
    ),
    _parallel(
        "every data rank reads the same documents",
        *("dp2", "llama", "every data rank computes the documents of rank 0"),
        _replace("training_rank:choose_documents", _same_documents),
    ),
    # https://github.com/huggingface/transformers/issues/34191
    _parallel(
        "the loss is divided by a rank's own tokens",
        *("dp2", "llama", "local tokens"),
        _replace("training_step:RankTrainer.count_tokens", _tokens_of_rank),
        thread="https://github.com/huggingface/transformers/issues/34191",
    ),
    _parallel(
        "gradients are clipped before they are summed",
        *("dp2", "llama", "clipped before the sum"),
        Plant("training_step:reduce_gradients", _clip_before_sum),
        Plant("training_rank:run_step", _tell_clip_limit),
    ),
    _parallel(
        "gradients are reduced after every micro-batch",
        *("dp2_accumulate2", "llama", "documents count|data rank"),
        Plant("training_step:RankTrainer._run_backward", _reduce_each_document),
    ),
    _parallel(
        "a model copy starts from other weights",
        *("dp2", "qwen2", "ranks 0 and 1 hold different"),
        Plant("training_rank:cut_parameter", _other_start),
    ),
    _parallel(
        "a rank stops in the middle of a step",
        *("dp2", "llama", "rank 1"),
        Plant("training_rank:run_step", _stop_second_rank),
    ),
    _parallel(
        "the attention's output is not summed over tensor ranks",
        *("tp2", "mistral", "layer 0, attention output projection.*all-reduce over tensor ranks 0, 1 is missing"),
        _replace("sharded_model:ShardedModel._project_output", _project_without_sum),
    ),
    _parallel(
        "the MLP's output is not summed over tensor ranks",
        *("tp2", "mistral", "layer 0, MLP.*all-reduce over tensor ranks 0, 1 is missing"),
        _replace("sharded_model:ShardedModel._leave", lambda _, tensor: tensor),
        _replace("sharded_model:ShardedModel._project_output", _project_with_sum),
    ),
    _parallel(
        "the experts' output is not summed over tensor ranks",
        *("tp2", "mixtral", "layer 0, MLP.*all-reduce over tensor ranks 0, 1 is missing"),
        _replace("sharded_model:ShardedModel._leave", lambda _, tensor: tensor),
        _replace("sharded_model:ShardedModel._project_output", _project_with_sum),
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/673
    _parallel(
        "gradients of replicated parameters are not summed over tensor ranks",
        *("tp2", "llama", "ranks 0 and 1 hold different copies.*tensor"),
        _replace("sharded_model:ShardedModel._enter", lambda _, tensor: tensor),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/673",
    ),
    _parallel(
        "embeddings of a cut vocabulary are not summed",
        *("tp2", "qwen2", "token embeddings.*all-reduce over tensor ranks 0, 1 is missing"),
        _replace("sharded_model:ShardedModel.embed", _embed_without_sum),
    ),
    _parallel(
        "the cross entropy is normalised over a rank's part of the vocabulary",
        *("tp2", "llama", "loss is wrong.*vocabulary"),
        _replace("sharded_model:ShardedModel.sum_cross_entropy", _cross_entropy_local),
    ),
    _parallel(
        "a bias is added by every tensor rank before the sum",
        *("tp2", "llama", "layer 0, attention output projection.*bias"),
        _replace("sharded_model:ShardedModel._project_output", _project_bias_inside),
    ),
    _parallel(
        "parts are put together in the wrong order",
        *("tp2", "llama", "wrong order"),
        Plant("training_gather:join_parameter", lambda original: lambda p, parts: original(p, list(parts)[::-1])),
    ),
    _parallel(
        "every tensor rank holds the first rank's keys and values",
        *("tp2", "llama", "layer 0, (key|value).*rank 1"),
        Plant("training_rank:cut_parameter", _cut_same_key_value),
    ),
    _parallel(
        "a rank's part of the vocabulary begins one row late",
        *("tp2", "llama", "token embeddings"),
        Plant("sharded_model:shift_ids", _shift_second_rank),
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/5916
    _parallel(
        "the router's gradient is not summed over tensor ranks",
        *("tp2", "mixtral", r"router|gate\.weight"),
        Plant("sharded_model:ShardedModel._enter", _enter_but_scores),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/5916",
    ),
    _parallel(
        "dropout with a seed of each rank",
        *("tp2", "llama", "token embeddings.*rank 0, 1"),
        Plant("sharded_model:ShardedModel.embed", _embed_with_dropout),
    ),
    _parallel(
        "the norm counts replicated parameters once a rank",
        *("tp2", "llama", "every tensor rank holds count once a rank"),
        _replace("training_step:counts_for_norm", lambda _, __: True),
    ),
    _parallel(
        "the norm is not summed over tensor ranks",
        *("tp2", "llama", "tensor rank 0's part|ranks 0 and 1 hold different"),
        _replace("training_step:compute_gradient_norm", _norm_over_axes("pipeline")),
    ),
    _parallel(
        "the norm is not summed over stages",
        *("pp2", "llama", "only stage 0's parameters|ranks 0 and 1"),
        _replace("training_step:compute_gradient_norm", _norm_over_axes("tensor")),
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/7452
    _parallel(
        "the gradient of tied embeddings is not summed over both stages",
        *("pp2_tied", "qwen2", r"embed_tokens\.weight.*lookup"),
        _replace("training_step:reduce_tied_gradient", lambda _, __: None),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/7452",
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/656
    _parallel(
        "the norm counts tied embeddings on both stages",
        *("pp2_tied", "qwen2", "tied embeddings count on both stages"),
        Plant("training_step:counts_for_norm", _count_both_ends),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/656",
    ),
    _parallel(
        "no gradient goes back to the stage before",
        *("pp2", "llama", r"gradient of model\.(embed_tokens|layers\.0).*zero"),
        Plant("rank_groups:RankGroups.send", _send_zeros_back),
    ),
    _parallel(
        "the gradient between stages is divided by the micro-batches once more",
        *("pp2", "llama", r"gradient of model\.(embed_tokens|layers\.0).*0\.5 times.*(stages|micro-batches)"),
        Plant("rank_groups:RankGroups.send", _halve_gradient_back),
    ),
    _parallel(
        "updated slices are not gathered",
        *("zero2", "llama", "slice of data rank 1 is not updated|ranks 0 and 1 hold different"),
        _replace("adamw:AdamW.update", _update_own_slice),
    ),
    _parallel(
        "slices are gathered in the wrong order",
        *("zero2", "llama", "slices of the data ranks are gathered in the wrong order"),
        Plant("rank_groups:RankGroups.gather_slices", _gather_reversed),
    ),
    _parallel(
        "gradients are cut into other slices than moments",
        *("zero2", "llama", "another rank's slice of the gradient"),
        Plant("adamw:AdamW.update", _cut_next_slice),
    ),
    _parallel(
        "the balancing loss is summed over documents",
        *("dp2", "mixtral", "balancing loss is summed over the 2 documents"),
        _replace("training_step:RankTrainer.scale_balancing_loss", lambda self, term: self.auxiliary_loss * term),
        check="balancing",
    ),
    _parallel(
        "slices of the state are lost when it is saved",
        *("zero2", "llama", "next step after zero2"),
        Plant("training_checkpoint:join_slices", _repeat_first_slice),
        check="conversion",
    ),
    # Training steps.
    # https://github.com/ServiceNow/Fast-LLM/blob/main/fast_llm/functional/triton/adam.py and its fallback
    _step(
        "AdamW's step is counted twice",
        *("single", "llama", "step is counted twice"),
        Plant("adamw:correct_moments", _correct_later),
    ),
    _step(
        "moments are not corrected",
        *("single", "llama", "not corrected"),
        _replace("adamw:correct_moments", lambda moments, *_: (moments.first, moments.second)),
    ),
    _step(
        "weight decay on norms and biases",
        *("single", "llama", "norms and biases"),
        _replace("adamw:is_decayed", lambda _: True),
    ),
    _step(
        "no weight decay",
        *("single", "llama", "decay is missing"),
        _replace("adamw:is_decayed", lambda _: False),
    ),
    _step(
        "weight decay as a part of the gradient",
        *("single", "llama", r"\(L2\)"),
        _replace("adamw:update_weight", _update_changed(l2=True)),
    ),
    _step(
        "weight decay without the learning rate",
        *("single", "llama", "not multiplied by the learning rate"),
        _replace("adamw:update_weight", _update_changed(unscaled=True)),
    ),
    _step(
        "epsilon inside the root",
        *("single", "llama", "inside the square root"),
        _replace("adamw:update_weight", _update_changed(inside=True)),
    ),
    _step(
        "betas swapped",
        *("single", "llama", "swapped"),
        _replace("adamw:update_weight", _update_changed(swapped=True)),
    ),
    _step(
        "half the learning rate",
        *("single", "llama", r"update of .*0\.5 of its size"),
        Plant("adamw:update_weight", _half_rate),
    ),
    _step(
        "no clipping",
        *("single", "llama", "not clipped"),
        _replace("training_step:compute_clip_scale", lambda _, __: 1.0),
    ),
    _step(
        "clipping twice",
        *("single", "llama", "clipped twice"),
        Plant("training_step:compute_clip_scale", lambda original: lambda norm, limit: original(norm, limit) ** 2),
    ),
    _step(
        "each parameter clipped alone",
        *("single", "llama", "own norm"),
        _replace("training_step:compute_clip_scale", lambda _, __: 1.0),
        Plant("adamw:update_weight", _clip_alone),
    ),
    _step(
        "the clipped gradient's norm is reported",
        *("single", "llama", "norm after clipping is reported"),
        Plant("training_rank:run_step", _report_clipped_norm),
    ),
    _step(
        "gradients are not cleared between steps",
        *("single", "llama", "not cleared"),
        Plant("training_rank:run_step", _keep_old_gradients),
    ),
    # https://github.com/huggingface/transformers/issues/48569
    _step(
        "gradients of micro-batches overwrite one another",
        *("accumulate2", "llama", "overwritten"),
        Plant("training_step:RankTrainer._run_backward", _overwrite_gradients),
        thread="https://github.com/huggingface/transformers/issues/48569",
    ),
    _step(
        "the loss is the mean of the documents' means",
        *("accumulate2", "llama", "mean of the documents' means"),
        Plant("sharded_model:ShardedModel.sum_cross_entropy", _mean_of_document),
        _replace("training_step:compute_loss", lambda total, _: total / 2),
        thread="https://github.com/huggingface/transformers/issues/34191",
    ),
    _step(
        "masked tokens count",
        *("single", "llama", "loss mask is ignored"),
        Plant("training_rank:read_documents", _count_all_tokens),
    ),
    _step(
        "each token is predicted from itself",
        *("single", "llama", "loss is wrong.*targets"),
        Plant("sharded_model:ShardedModel.sum_cross_entropy", _predict_same_token),
    ),
    # https://github.com/inclusionAI/AReaL/issues/1468
    _step(
        "both moments are lost in a resume",
        *("single", "llama", "moments"),
        Plant("training_rank:cut_state", _resume_without("first", "second")),
        check="resume",
        thread="https://github.com/inclusionAI/AReaL/issues/1468",
    ),
    _step(
        "the second moment is lost in a resume",
        *("single", "llama", "second moment"),
        Plant("training_rank:cut_state", _resume_without("second")),
        check="resume",
    ),
    _step(
        "the step count is lost in a resume",
        *("single", "llama", "step"),
        Plant("training_rank:cut_state", _resume_without(step=True)),
        check="resume",
    ),
    _step(
        "a resume begins with the first documents again",
        *("single", "llama", "other documents"),
        Plant("training:run_place", _resume_first_documents),
        check="resume",
    ),
    _step(
        "a missing moment is taken as zeros",
        *("single", "llama", "without the moment"),
        Plant("training_checkpoint:_select_kind", _read_missing_as_zeros),
        Plant("training_checkpoint:_read_file", _read_unchecked),
        check="resume",
    ),
    _step(
        "an export is rounded",
        *("single", "llama", "export from one process"),
        Plant("training:_yield_whole", _export_rounded),
        check="conversion",
    ),
    _step(
        "the balancing loss has no gradient",
        *("accumulate2", "mixtral", "balancing loss has no gradient"),
        Plant(
            "training_step:RankTrainer.scale_balancing_loss",
            lambda original: lambda self, t: original(self, t).detach(),
        ),
        check="balancing",
    ),
)
"""Each with the layout in which it must be caught, and the words by which the diagnosis names it."""
