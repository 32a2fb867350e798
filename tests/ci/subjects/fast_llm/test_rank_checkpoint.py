"""Which parts a rank loads and writes, over a stand-in for Fast-LLM; `test_training.py` runs the real one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ci.subjects.fast_llm.rank_checkpoint import load_state, write_checkpoints
from ci.subjects.training import TrainRequest


@dataclass
class CheckpointConfig:
    """Fast-LLM's `CheckpointLoadConfig` and `CheckpointSaveConfig`, as far as a rank fills them."""

    path: Path
    format: str
    optimizer_state: bool


class Model:
    """What a model is told to load and save."""

    def __init__(self, rank: int = 0) -> None:
        self.calls: list[Any] = []
        self.distributed = SimpleNamespace(world_group=None)
        self.config = SimpleNamespace(distributed=SimpleNamespace(rank=rank))

    def load_checkpoint(self, config: CheckpointConfig) -> dict[str, Any]:
        self.calls.append((config.path.name, config.format, config.optimizer_state))
        return {"optimizer": "moments", "completed_steps": 3}

    def save_checkpoint(self, config: CheckpointConfig, state: dict[str, Any] | None) -> None:
        self.calls.append((config.path.name, config.format, config.optimizer_state, state))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    config, distributed = ModuleType("config"), ModuleType("distributed")
    vars(config).update(CheckpointLoadConfig=CheckpointConfig, CheckpointSaveConfig=CheckpointConfig)
    vars(config).update(DistributedCheckpointFormat="distributed", FastLLMCheckpointFormat="fast_llm")
    vars(distributed)["safe_barrier"] = lambda *_: None
    monkeypatch.setitem(sys.modules, "fast_llm.engine.checkpoint.config", config)
    monkeypatch.setitem(sys.modules, "fast_llm.core.distributed", distributed)
    for package in ("fast_llm", "fast_llm.engine", "fast_llm.engine.checkpoint", "fast_llm.core"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))


def make_request(tmp_path: Path) -> TrainRequest:
    return TrainRequest(str(tmp_path / "converted"), "inputs", str(tmp_path), "llama")


def test_a_first_run_loads_weights_alone(tmp_path: Path) -> None:
    model = Model()
    assert load_state(model, SimpleNamespace(), make_request(tmp_path)) == 0
    assert model.calls == [("converted", "fast_llm", False)]


def test_a_resumed_run_loads_all_state_of_a_complete_checkpoint(tmp_path: Path) -> None:
    model, loaded = Model(), list[str]()
    (saved := tmp_path / "saved").mkdir()
    request = replace(make_request(tmp_path), resume=str(saved))
    with pytest.raises(FileNotFoundError, match="saved is not complete"):
        load_state(model, SimpleNamespace(load=loaded.append), request)
    (saved / "ok").touch()
    assert load_state(model, SimpleNamespace(load=loaded.append), request) == 3
    assert (model.calls, loaded) == ([("saved", "distributed", True)], ["moments"])


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_makes_the_directory_and_marks_it_complete(rank: int, tmp_path: Path) -> None:
    model, optimizer = Model(rank), SimpleNamespace(save=lambda: "moments")
    write_checkpoints(model, optimizer, replace(make_request(tmp_path), save=True), 5)
    state = {"optimizer": "moments", "completed_steps": 5, "documents_seen": 0}
    assert model.calls == [("checkpoint", "distributed", True, state)]
    assert (tmp_path / "checkpoint" / "ok").is_file() == (rank == 0)


def test_a_request_for_neither_writes_nothing(tmp_path: Path) -> None:
    model = Model()
    write_checkpoints(model, SimpleNamespace(), make_request(tmp_path), 5)
    assert (model.calls, list(tmp_path.iterdir())) == ([], [])
