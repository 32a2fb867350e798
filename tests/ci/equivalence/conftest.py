"""One small model a session, with its reference run made once: running models is what costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.tiny_models import TINY_MODELS
from benchmarks.mutation.training_models import TRAINING_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A llama with odd sizes, published in bfloat16."""
    return Experiment(TINY_MODELS["dense"], tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A mixtral of six experts."""
    return Experiment(TINY_MODELS["moe"], tmp_path_factory.mktemp("moe"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A llama with biases that two ranks can divide; its judges share Hugging Face's training steps."""
    return Experiment(TRAINING_MODELS["llama"], tmp_path_factory.mktemp("trained"))
