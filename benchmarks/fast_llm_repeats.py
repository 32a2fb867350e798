"""Findings about Fast-LLM in a few lines of Fast-LLM alone: nothing of hub-tests' subjects or judge runs.

PYTHONPATH=FAST_LLM ENV/bin/python -m benchmarks.fast_llm_repeats kda-gradients|frozen-state
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DECAYS = (-1.0, -1.3, -1.5, -2.0)
"""Log decays of a token. Over a chunk of 64 tokens the third one is 96, whose exponential is infinite in float32."""
MIXER = {"heads": 2, "head_groups": 1, "head_size": 8, "implementation": "backup"}
EMBEDDINGS = {"embeddings": {"vocab_size": 32}, "hidden_size": 16}


def show_kda_gradients() -> None:
    """Print for which decays Kimi delta attention's plain output and gradient are finite."""
    from fast_llm.layers.ssm.kda import torch_chunk_kda

    torch.compiler.set_stance("force_eager")
    for decay in DECAYS:
        torch.manual_seed(0)
        query, key, value = (torch.randn(1, 64, 1, 8) for _ in range(3))
        log_decay = torch.full((1, 64, 1, 8), decay, requires_grad=True)
        beta = torch.full((1, 64, 1), 0.5)
        output, _ = torch_chunk_kda(query, key, value, log_decay, beta, use_qk_l2norm_in_kernel=True)
        torch.autograd.backward(output.sum())
        assert log_decay.grad is not None
        finite = bool(output.isfinite().all()), bool(log_decay.grad.isfinite().all())
        print(f"decay {decay} a token: output finite: {finite[0]}, gradient finite: {finite[1]}")


def show_frozen_state() -> None:
    """Print which formats can save the optimizer's state with a frozen parameter, and without."""
    from fast_llm.engine.checkpoint.config import DistributedCheckpointFormat, FastLLMCheckpointFormat

    for scale in (None, 0):
        model = _make_model(scale)
        for format_ in (DistributedCheckpointFormat, FastLLMCheckpointFormat):
            print(f"lr_scale {scale}, format {format_.name}: {_save(model, format_)}")


def _make_model(scale: float | None) -> Any:
    """Make a model of one block whose MLP learns at `scale` times the rate: 0 freezes it."""
    from fast_llm.engine.distributed.distributed import Distributed
    from fast_llm.engine.multi_stage.config import StageMode
    from fast_llm.models.gpt.config import GPTModelConfig

    block = {"mixer": MIXER, "mlp": {"intermediate_size": 24, "lr_scale": scale}}
    base = {**EMBEDDINGS, "decoder": {"num_blocks": 1, "block": block}}
    config = GPTModelConfig.from_dict({"base_model": base, "distributed": {"use_cuda": False}})
    model = config.get_model_class()(config, optimizer_state_names=("exp_avgs", "exp_avgs_sq"))
    model.setup(Distributed(config.distributed), mode=StageMode.training)
    model.initialize_weights()
    return model


def _save(model: Any, format_: Any) -> str:
    from fast_llm.engine.checkpoint.config import CheckpointSaveConfig

    with tempfile.TemporaryDirectory() as folder:
        save = CheckpointSaveConfig(path=Path(folder), format=format_, optimizer_state=True)
        try:
            model.save_checkpoint(save, {"optimizer": {}})
        except Exception as error:  # what it is, is the finding
            return f"{type(error).__name__}: {error}"
    return "saved"


REPEATS: Mapping[str, Callable[[], None]] = {"kda-gradients": show_kda_gradients, "frozen-state": show_frozen_state}


def main(argv: list[str] | None = None) -> int:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fast_llm_repeats", description=__doc__)
    parser.add_argument("name", choices=sorted(REPEATS))
    REPEATS[parser.parse_args(argv).name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
