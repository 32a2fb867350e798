"""Loads and saves one rank's part of a checkpoint: weights, optimizer state and step, as Fast-LLM's trainer does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.subjects.fast_llm.config import find_format, find_model_class

if TYPE_CHECKING:
    from ci.subjects.training import OptimizerSettings, TrainRequest

NO_CLIPPING = 1e30
"""Fast-LLM must clip: to a norm that no gradient has, where a request does not ask for it."""


def make_optimizer(model: Any, settings: OptimizerSettings) -> Any:
    """Make Fast-LLM's optimizer over the model's parameters, at step 0."""
    from fast_llm.engine.optimizer.config import OptimizerConfig, ParamGroup

    config = OptimizerConfig.from_dict(
        {
            "learning_rate": {"base": settings.learning_rate},
            "weight_decay": settings.weight_decay,
            "beta_1": settings.beta_1,
            "beta_2": settings.beta_2,
            "epsilon": settings.epsilon,
            "gradient_norm_clipping": settings.max_gradient_norm or NO_CLIPPING,
        }
    )
    groups, for_norm = model.get_param_groups(ParamGroup)
    optimizer = config.optimizer_cls(
        config, param_groups=groups, grads_for_norm=for_norm, distributed=model.distributed
    )
    optimizer.reset_state()
    return optimizer


def load_state(model: Any, optimizer: Any, request: TrainRequest) -> int:
    """Fill the model from the request's checkpoint, or all state from another run's; return that run's steps."""
    from fast_llm.engine.checkpoint.config import (
        CheckpointLoadConfig,
        DistributedCheckpointFormat,
        FastLLMCheckpointFormat,
    )

    if request.resume is None:
        format_, path = FastLLMCheckpointFormat, Path(request.checkpoint)
        model.load_checkpoint(CheckpointLoadConfig(path=path, format=format_, optimizer_state=False))
        return 0
    path = Path(request.resume)
    if not (path / "ok").is_file():  # as Fast-LLM's trainer does
        raise FileNotFoundError(f"the checkpoint {path.name} is not complete: it has no file `ok`")
    load = CheckpointLoadConfig(path=path, format=DistributedCheckpointFormat, optimizer_state=True)
    state = model.load_checkpoint(load)
    optimizer.load(state["optimizer"])
    return int(state["completed_steps"])


def write_checkpoints(model: Any, optimizer: Any, request: TrainRequest, steps: int) -> None:
    """Write the checkpoint and the export that the request asks for, after so many steps."""
    from fast_llm.engine.checkpoint.config import DistributedCheckpointFormat

    output = Path(request.output)
    if request.save:
        state = {"optimizer": optimizer.save(), "completed_steps": steps, "documents_seen": 0}
        _write_checkpoint(model, output / "checkpoint", DistributedCheckpointFormat, state)
    if request.export:
        format_ = find_format(find_model_class(request.model_config), request.checkpoint_format)
        _write_checkpoint(model, output / "export", format_, None)


def _write_checkpoint(model: Any, path: Path, format_: Any, state: dict[str, Any] | None) -> None:
    """Write this rank's part; the first rank makes the directory, and marks one with training state complete."""
    from fast_llm.core.distributed import safe_barrier
    from fast_llm.engine.checkpoint.config import CheckpointSaveConfig

    world, is_first = model.distributed.world_group, model.config.distributed.rank == 0
    if is_first:
        path.mkdir(parents=True)
    safe_barrier(world, f"{path.name} enter")
    save = CheckpointSaveConfig(path=path, format=format_, optimizer_state=state is not None)
    model.save_checkpoint(save, state)
    safe_barrier(world, f"{path.name} exit")
    if is_first and state is not None:
        (path / "ok").touch()
