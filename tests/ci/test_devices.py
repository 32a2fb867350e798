from typing import Literal

import pytest

from ci import devices
from ci.devices import check_device, choose_worker_count, list_visible_gpus, share_machine
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


def test_a_worker_has_its_own_gpu_and_its_share_of_the_cores() -> None:
    second = {"PYTEST_XDIST_WORKER": "gw1", "PYTEST_XDIST_WORKER_COUNT": "2", "CUDA_VISIBLE_DEVICES": "4,7"}
    assert share_machine(second, 32) == {"CUDA_VISIBLE_DEVICES": "7", "OMP_NUM_THREADS": "16"}
    third = {**second, "PYTEST_XDIST_WORKER": "gw2", "PYTEST_XDIST_WORKER_COUNT": "3"}
    assert share_machine(third, 2) == {"CUDA_VISIBLE_DEVICES": "4", "OMP_NUM_THREADS": "1"}
    assert share_machine(second | {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": ""}, 32) == {}


def test_a_run_without_workers_shares_nothing() -> None:
    assert share_machine({"CUDA_VISIBLE_DEVICES": "0,1"}, 32) == {}
