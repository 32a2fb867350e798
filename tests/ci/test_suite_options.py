from pathlib import Path

import pytest

from ci.errors import GatedError, InfrastructureError, RequestError
from ci.hub.fetch import Checkpoint
from ci.run import write_checkpoints
from ci.suite_options import layers_option, read_checkpoints, visible_gpus

CHECKPOINT = Checkpoint("o/n", "f" * 40, 2, "/store/x", "hit", 10, 0, 0, 0.1, "a" * 64, 30)


def test_checkpoints_come_back_with_what_could_not_be_had(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.json"
    write_checkpoints({"a": CHECKPOINT}, {"b": GatedError("b is gated"), "c": InfrastructureError("away")}, path)
    back = read_checkpoints(path)
    assert back["a"] == CHECKPOINT
    assert isinstance(back["b"], GatedError)
    assert isinstance(back["c"], InfrastructureError)
    assert str(back["c"]) == "away"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "a", "model_id": 3}]'])
def test_anything_else_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "checkpoints.json"
    path.write_text(text)
    with pytest.raises(RequestError, match="--checkpoints"):
        read_checkpoints(path)


def test_layers() -> None:
    assert [layers_option(text) for text in ("2", "auto")] == [2, "auto"]
    for text in ("0", "-1", "two", ""):
        with pytest.raises(RequestError, match="--layers"):
            layers_option(text)


def test_gpus_by_environment() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 5"}) == ["3", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
