from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import pytest

from ci import devices
from ci.devices import check_device, check_driver, choose_worker_count, count_gpus, list_visible_gpus, share_machine
from ci.errors import InfrastructureError
from ci.nvml import Gpu, Nvml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    monkeypatch.setattr(devices, "count_gpus", lambda: 2 if seen == "cuda" else 0)
    assert choose_worker_count(models, device, {"CUDA_VISIBLE_DEVICES": "0,1"}) == workers


@pytest.fixture
def torch_built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a torch whose `version.py` says what it is built for on the import path; importing it fails."""

    def build(platforms: str) -> None:
        package = tmp_path / "torch"
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('torch was imported')")
        (package / "version.py").write_text(f"__version__ = '2'\n{platforms}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.setattr(devices, "count_gpus", count_gpus.__wrapped__)

    return build


def test_the_driver_counts_the_gpus_without_torch(
    torch_built_for: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_built_for("cuda = '13.0'\nhip = None")
    monkeypatch.setattr(devices, "read_nvml", lambda: Nvml(gpus=(Gpu(0), Gpu(1))))
    assert devices.count_gpus() == 2
    check_driver("cuda", {})
    with pytest.raises(InfrastructureError, match="torch sees no GPU here"):
        check_driver("cuda", {"CUDA_VISIBLE_DEVICES": ""})


def test_a_torch_for_the_cpu_sees_no_gpu_of_the_driver(
    torch_built_for: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_built_for("cuda = None\nhip = None")
    monkeypatch.setattr(devices, "read_nvml", lambda: Nvml(gpus=(Gpu(0),)))
    assert devices.count_gpus() == 0
    for environ in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
        with pytest.raises(InfrastructureError, match="torch sees no GPU here"):
            check_driver("cuda", environ)


@pytest.mark.parametrize(
    ("platforms", "driver"), [("cuda = '13.0'", Nvml(problem="no NVML in this container")), ("hip = '7.1'", Nvml())]
)
def test_torch_is_asked_where_the_driver_does_not_answer(
    platforms: str, driver: Nvml, torch_built_for: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_built_for(platforms)
    monkeypatch.setattr(devices, "read_nvml", lambda: driver)
    with pytest.raises(ImportError, match="torch was imported"):
        devices.count_gpus()


def test_a_worker_has_its_own_gpu_and_its_share_of_the_cores() -> None:
    second = {"PYTEST_XDIST_WORKER": "gw1", "PYTEST_XDIST_WORKER_COUNT": "2", "CUDA_VISIBLE_DEVICES": "4,7"}
    assert share_machine(second, 32) == {"CUDA_VISIBLE_DEVICES": "7", "OMP_NUM_THREADS": "16"}
    third = {**second, "PYTEST_XDIST_WORKER": "gw2", "PYTEST_XDIST_WORKER_COUNT": "3"}
    assert share_machine(third, 2) == {"CUDA_VISIBLE_DEVICES": "4", "OMP_NUM_THREADS": "1"}
    assert share_machine(second | {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": ""}, 32) == {}


def test_a_run_without_workers_shares_nothing() -> None:
    assert share_machine({"CUDA_VISIBLE_DEVICES": "0,1"}, 32) == {}
