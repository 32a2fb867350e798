"""One rank of a training run of Fast-LLM: its own model, schedule, runner and optimizer, as its trainer sets them up.

Each rank writes what it alone can: its part of the checkpoint and of the export, and, where it is the first rank of its
pipeline stage, full gradients and weights under Fast-LLM's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ci.errors import UnsupportedError
from ci.layouts import Layout
from ci.subjects.fast_llm.config import (
    choose_compiler,
    compile_stance,
    find_format,
    find_model_class,
    make_variant_updates,
    read_model_config,
)
from ci.subjects.fast_llm.documents import get_preprocessing, make_batch, make_document
from ci.subjects.fast_llm.errors import translate_errors
from ci.subjects.fast_llm.gradients import LOSS, choose_mixers, make_trace_request, sum_losses
from ci.subjects.fast_llm.layout_config import (
    check_divisible,
    find_backend,
    find_layout,
    list_stage_sizes,
    make_layout_updates,
    make_training_updates,
    round_up_predictions,
)
from ci.subjects.fast_llm.layout_proof import describe_rank, find_disagreements
from ci.subjects.fast_llm.state import GRADIENTS, WEIGHTS, gather
from ci.subjects.rank_process import Rank
from ci.subjects.training import Disagreement, RankReport, TrainRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci.subjects.base import TraceRequest
    from ci.subjects.reference.training_step import Document

NO_CLIPPING = 1e30
"""Fast-LLM must clip: to a norm that no gradient has, where a request does not ask for it."""


@dataclass(frozen=True)
class RankResult:
    """What a rank knows at the end: the same figures on all, its own report, and copies that differ."""

    losses: tuple[dict[str, float], ...]
    gradient_norms: tuple[float, ...]
    report: RankReport
    ran: dict[str, str]
    disagreements: tuple[Disagreement, ...]


def run_training_rank(rank: Rank, request: TrainRequest, directory: Path) -> RankResult:
    """Run one rank of a request; its gradients and weights by step go to `directory`."""
    from ci.subjects.forward import exact_arithmetic

    variant_request = make_trace_request(request)
    with (
        translate_errors(f"training {request.checkpoint} in layout {request.layout}"),
        exact_arithmetic(),
        compile_stance(choose_compiler(variant_request)),
        open_process_groups(rank, request.device),
    ):
        return _TrainingRun(rank, request, directory, find_layout(request.layout)).run(variant_request)


@contextmanager
def open_process_groups(rank: Rank, device: str) -> Iterator[None]:
    """Make Fast-LLM's pool of process groups, which its models find by themselves, over the ranks' own store.

    Fast-LLM reads rank and world size from the environment when it is imported, so a fork sets them anew.
    """
    import torch
    from fast_llm.engine.distributed.config import DistributedBackend, DistributedConfig
    from fast_llm.engine.distributed.distributed import ProcessGroupPool

    DistributedConfig.default_rank = rank.number
    DistributedConfig.default_world_size = DistributedConfig.default_local_world_size = rank.count
    with ProcessGroupPool(
        rank.number,
        rank.count,
        rank.count,
        rank.collective_seconds,
        init_method=rank.store,
        backend=DistributedBackend(find_backend(device)),
        device=torch.device("cpu" if device == "cpu" else f"cuda:{rank.number}"),
    ):
        yield


@dataclass
class _Recorder:
    """Stands between the runner and the optimizer: gradients are reduced there, but not yet clipped."""

    optimizer: Any
    record: Callable[[], None]

    @property
    def grad_scale(self) -> float:
        """The factor of the loss."""
        return float(self.optimizer.grad_scale)

    def step(self, metrics: dict[str, Any] | None = None) -> bool:
        """Record, then update."""
        self.record()
        return bool(self.optimizer.step(metrics))


@dataclass
class _TrainingRun:
    rank: Rank
    request: TrainRequest
    directory: Path
    layout: Layout
    disagreements: list[Disagreement] = field(default_factory=list)
    _gradients: dict[str, Tensor] = field(default_factory=dict)
    _step: int = 0

    def run(self, variant_request: TraceRequest) -> RankResult:
        """Load, run each step, save and export."""
        from fast_llm.engine.multi_stage.config import StageMode

        from ci.subjects.fast_llm.hooks import read_implementations
        from ci.subjects.reference.training_rank import read_documents

        request = self.request
        updates, path = self._make_updates(variant_request), Path(request.checkpoint)
        model = build_model(self.layout, updates, path, mode=StageMode.training, optimizer_states=True)
        optimizer, completed = self._load(model)
        figures = self._run_steps(model, optimizer, read_documents(Path(request.inputs)), completed)
        self._write_checkpoints(model, optimizer, completed + request.steps)
        blocks = [block for block in model.base_model.decoder if not is_absent(block)]
        return RankResult(
            losses=tuple(losses for losses, _ in figures),
            gradient_norms=tuple(norm for _, norm in figures),
            report=describe_rank(self.rank.number, model),
            ran={**read_implementations(blocks), "compile": choose_compiler(variant_request)},
            disagreements=tuple(self.disagreements),
        )

    def _make_updates(self, variant_request: TraceRequest) -> dict[tuple[str, ...], Any]:
        request, config = self.request, read_model_config(Path(self.request.checkpoint))
        return {
            **make_layout_updates(self.layout, self.rank, request.device),
            **make_training_updates(config, request.auxiliary_loss, request.recompute),
            **make_variant_updates(variant_request, config),
            **choose_mixers(config, request.variant.get("mixer")),
            ("distributed", "compute_dtype"): request.dtype,
        }

    def _load(self, model: Any) -> tuple[Any, int]:
        """Fill the model from the request's checkpoint, or all its state from another run's; make its optimizer."""
        from fast_llm.engine.checkpoint.config import (
            CheckpointLoadConfig,
            DistributedCheckpointFormat,
            FastLLMCheckpointFormat,
        )

        optimizer = make_optimizer(model, self.request)
        if self.request.resume is None:
            format_, path = FastLLMCheckpointFormat, Path(self.request.checkpoint)
            model.load_checkpoint(CheckpointLoadConfig(path=path, format=format_, optimizer_state=False))
            return optimizer, 0
        path = Path(self.request.resume)
        if not (path / "ok").is_file():  # as Fast-LLM's trainer does
            raise FileNotFoundError(f"the checkpoint {path.name} is not complete: it has no file `ok`")
        load = CheckpointLoadConfig(path=path, format=DistributedCheckpointFormat, optimizer_state=True)
        state = model.load_checkpoint(load)
        optimizer.load(state["optimizer"])
        return optimizer, int(state["completed_steps"])

    def _run_steps(
        self, model: Any, optimizer: Any, documents: Sequence[Document], completed: int
    ) -> list[tuple[dict[str, float], float]]:
        from fast_llm.engine.distributed.config import PhaseType
        from fast_llm.engine.schedule.runner import ScheduleRunner
        from fast_llm.engine.schedule.schedule import Schedule

        config, distributed = make_schedule_config(self.layout), model.config.distributed
        preprocessing = get_preprocessing(model, self.layout.micro_sequences)
        # Padding for each head at least: the last tokens have no target, and are inputs all the same as elsewhere.
        length = round_up_predictions(max(len(document.ids) for document in documents), self.layout)
        schedule = Schedule(
            config,
            multi_stage=model,
            batch_meta=preprocessing.get_input_meta(length),
            distributed_config=distributed,
            phase=PhaseType.training,
        )
        runner = ScheduleRunner(config=config, multi_stage=model, distributed_config=distributed)
        runner.setup(model.distributed, _Recorder(optimizer, lambda: self._keep_gradients(model, optimizer)))
        figures = []
        for step in range(self.request.steps):
            self._step = step + 1
            first = (self.request.resume_steps + step) * self.layout.documents
            size = length + preprocessing.num_labels
            batches = make_batches(documents[first : first + self.layout.documents], model, size)
            inputs = [batch.get_model_inputs(preprocessing) for batch in batches]
            captured = self._ask_for_hidden_states(inputs)
            losses, _, metrics, _ = runner.run_step(
                iter(inputs), schedule, iteration=completed + step + 1, return_metrics=True
            )
            if captured is not None:
                self._write_captures(model, captured, batches[0].unpadded_length)
            figures.append((_add_heads({n: float(loss) for n, loss in losses.items()}), float(metrics["grad_norm"])))
            self._write_step(model)
        return figures

    def _ask_for_hidden_states(self, inputs: list[list[Any]]) -> Any:
        """Let the first document of the first step leave its hidden states behind, where its tokens are not cut."""
        whole = not self.layout.sequence_tensor and self.layout.sequence_data == self.layout.micro_sequences == 1
        if not (self.request.capture and self._step == 1 and whole):
            return None
        inputs[0][0].output_hidden_states.add(re.compile(".*"))
        return inputs[0][0]

    def _write_captures(self, model: Any, captured: Any, length: int) -> None:
        """Write what this rank held of each tensor (1, T, …)."""
        from safetensors.torch import save_file

        from ci.subjects.fast_llm.hidden_states import name_hidden_states, sort_routing

        names = name_hidden_states(model.base_model, everything=True)
        states = {
            names[name]: [tensor.detach()] for name, (_, tensor) in captured.hidden_states.items() if name in names
        }
        (directory := Path(self.request.output) / "captures").mkdir(exist_ok=True)
        tensors = {
            name: tensor.cpu()[None, :length].contiguous().clone() for name, (tensor,) in sort_routing(states).items()
        }
        save_file(tensors, directory / f"rank-{self.rank.number}.safetensors")

    def _keep_gradients(self, model: Any, optimizer: Any) -> None:
        """Gather the gradients; only the first rank of a pipeline stage keeps them."""
        gradients = gather(model, GRADIENTS)
        self._note_disagreements(model, gradients, "gradient")
        scale = optimizer.grad_scale
        self._gradients = {name: tensor / scale for name, tensor in gradients.items()} if is_writer(model) else {}

    def _note_disagreements(self, model: Any, tensors: dict[str, Tensor], kind: str) -> None:
        self.disagreements += find_disagreements(model, tensors, kind, self._step, self.rank.number)

    def _write_step(self, model: Any) -> None:
        from safetensors.torch import save_file

        weights = gather(model, WEIGHTS)
        self._note_disagreements(model, weights, "weight")
        if is_writer(model):
            tensors = {f"gradient/{name}": tensor for name, tensor in self._gradients.items()}
            tensors |= {f"weight/{name}": tensor for name, tensor in weights.items()}
            save_file(tensors, name_step_file(self.directory, self._step, self.rank.number))
        self._gradients = {}

    def _write_checkpoints(self, model: Any, optimizer: Any, steps: int) -> None:
        """Save as Fast-LLM's trainer does, and export; the first rank makes directories and marks them complete."""
        from fast_llm.engine.checkpoint.config import DistributedCheckpointFormat

        output, request = Path(self.request.output), self.request
        state = {"optimizer": optimizer.save(), "completed_steps": steps, "documents_seen": 0}
        format_ = find_format(find_model_class(request.model_config), request.checkpoint_format)
        wanted = (
            (request.save, output / "checkpoint", DistributedCheckpointFormat, True),
            (request.export, output / "export", format_, False),
        )
        for _, path, checkpoint_format, training in (each for each in wanted if each[0]):
            self._write_checkpoint(model, path, checkpoint_format, state if training else None)

    def _write_checkpoint(self, model: Any, path: Path, format_: Any, state: dict[str, Any] | None) -> None:
        from fast_llm.core.distributed import safe_barrier
        from fast_llm.engine.checkpoint.config import CheckpointSaveConfig

        world = model.distributed.world_group
        if self.rank.number == 0:
            path.mkdir(parents=True)
        safe_barrier(world, f"{path.name} enter")
        save = CheckpointSaveConfig(path=path, format=format_, optimizer_state=state is not None)
        model.save_checkpoint(save, state)
        safe_barrier(world, f"{path.name} exit")
        if self.rank.number == 0 and state is not None:
            (path / "ok").touch()


def build_model(
    layout: Layout, updates: dict[tuple[str, ...], Any], checkpoint: Path, *, mode: Any, optimizer_states: bool
) -> Any:
    """Make an empty model in a layout that is proved, with room for the optimizer's state where it is asked for.

    Raises UnsupportedError where embeddings and head cannot be laid on different ranks.
    """
    from fast_llm.engine.distributed.distributed import Distributed
    from fast_llm.engine.optimizer.config import OptimizerConfig

    base, states = read_model_config(checkpoint), OptimizerConfig.state_names() if optimizer_states else ()
    check_divisible(base, layout)
    for size in list_stage_sizes(layout, base.base_model.decoder.num_blocks):
        config = base.to_copy({**updates, ("multi_stage", "layers_per_stage"): size})
        model = config.get_model_class()(config, optimizer_state_names=states)
        placement = list(model._stage_pipeline_ranks.values())
        if not layout.separate_tied or placement[0] != placement[-1]:
            print(f"pipeline rank of each stage: {placement}, layers per stage: {size:g}")
            model.setup(Distributed(config.distributed), mode=mode)
            return model
    raise UnsupportedError(f"Fast-LLM, layout {layout.name}: no split lays embeddings and head on different ranks")


def make_optimizer(model: Any, request: TrainRequest) -> Any:
    """Make Fast-LLM's optimizer over the model's parameters, at step 0."""
    from fast_llm.engine.optimizer.config import OptimizerConfig, ParamGroup

    wanted = request.optimizer
    config = OptimizerConfig.from_dict(
        {
            "learning_rate": {"base": wanted.learning_rate},
            "weight_decay": wanted.weight_decay,
            "beta_1": wanted.beta_1,
            "beta_2": wanted.beta_2,
            "epsilon": wanted.epsilon,
            "gradient_norm_clipping": wanted.max_gradient_norm or NO_CLIPPING,
        }
    )
    groups, for_norm = model.get_param_groups(ParamGroup)
    optimizer = config.optimizer_cls(
        config, param_groups=groups, grads_for_norm=for_norm, distributed=model.distributed
    )
    optimizer.reset_state()
    return optimizer


def make_schedule_config(layout: Layout) -> Any:
    """Return Fast-LLM's schedule for a layout's micro-batches."""
    from fast_llm.engine.schedule.config import ScheduleConfig

    return ScheduleConfig(
        depth_first_micro_batches=layout.micro_batches if layout.order == "depth" else 1,
        breadth_first_micro_batches=layout.micro_batches if layout.order == "breadth" else 1,
        micro_batch_splits=layout.micro_sequences,
    )


def make_batches(documents: Sequence[Document], model: Any, size: int) -> list[Any]:
    """Return the micro-batches of this rank: one document each, padded to `size` tokens as Fast-LLM pads."""
    distributed, base = model.config.distributed, model.config.base_model
    mine = documents[distributed.batch_data_rank :: distributed.batch_data_parallel]
    return [make_batch([make_document(base, one.ids, one.images, one.counted)], size) for one in mine]


def _add_heads(losses: dict[str, float]) -> dict[str, float]:
    """Return the losses with those of all prediction heads in one: each further one has its distance in its name."""
    others = {name: loss for name, loss in losses.items() if not name.startswith(f"{LOSS}_")}
    return {**others, LOSS: sum_losses(losses)}


def is_writer(model: Any) -> bool:
    """Tell whether this rank is the first of its pipeline stage: all of the stage have the same full tensors."""
    distributed = model.config.distributed
    return bool(distributed.tensor_rank == 0 and distributed.data_rank == 0)


def is_absent(block: Any) -> bool:
    """Tell whether a block lies on another pipeline rank: its parameters have no storage here."""
    return any(parameter.device.type == "meta" for parameter in block.parameters())


def name_step_file(directory: Path, step: int, rank: int) -> Path:
    """Return the path of what a rank wrote after a step."""
    return directory / f"step-{step}.rank-{rank}.safetensors"
