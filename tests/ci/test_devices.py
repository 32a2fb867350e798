from typing import Literal

import pytest

from ci import devices
from ci.devices import check_device, choose_worker_count, list_visible_gpus
from ci.errors import InfrastructureError


def test_gpus_by_environment() -> None:
    assert list_visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 5"}) == ["3", "5"]
    assert list_visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_a_missing_gpu_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "default_device", lambda: "cpu")
    check_device("cpu")
    with pytest.raises(InfrastructureError, match="torch sees no GPU here"):
        check_device("cuda")


@pytest.mark.parametrize(
    ("device", "seen", "models", "workers"),
    [
        (None, "cuda", 3, 2),
        ("cuda", "cuda", 3, 2),
        (None, "cuda", 1, 0),
        (None, "cpu", 3, 0),
        ("cpu", "cuda", 3, 0),
    ],
)
def test_one_worker_a_gpu_is_the_default(
    device: Literal["cpu", "cuda"] | None,
    seen: str,
    models: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "default_device", lambda: seen)
    assert choose_worker_count(models, device, {"CUDA_VISIBLE_DEVICES": "0,1"}) == workers
