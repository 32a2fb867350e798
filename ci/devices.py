"""The CPU or the GPUs on which the suite runs, and how many processes share them."""

from __future__ import annotations

import runpy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.errors import InfrastructureError
from ci.nvml import read_nvml

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_GPU = "--device cuda: torch sees no GPU here; `hub-tests doctor` says why"


def default_device() -> Literal["cpu", "cuda"]:
    """Return `cuda` where torch sees a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: Literal["cpu", "cuda"]) -> None:
    """Raise InfrastructureError for a GPU that torch does not see: no subject is to blame for it."""
    if device == "cuda" and default_device() == "cpu":
        raise InfrastructureError(NO_GPU)


def check_driver(device: Literal["cpu", "cuda"], environ: Mapping[str, str]) -> None:
    """Raise InfrastructureError for a missing GPU, without torch; the suite's `check_device` is the stricter check."""
    if device == "cuda" and not (count_gpus() and list_visible_gpus(environ)):
        raise InfrastructureError(NO_GPU)


@cache
def count_gpus() -> int:
    """Count the GPUs that torch can see at most, by the driver's NVML where it answers.

    NVML starts no CUDA, so that a process may still choose its devices by `CUDA_VISIBLE_DEVICES`. torch itself is
    asked where there is no NVML, or where it is built for another platform.
    """
    platforms = _read_torch_platforms()
    if not platforms:
        return 0
    if platforms == ["cuda"] and (nvml := read_nvml()).gpus:
        return len(nvml.gpus)
    import torch

    return int(torch.cuda.device_count())


def _read_torch_platforms() -> list[str]:
    """Return which of `cuda`, `hip` and `xpu` torch is built for, by its `version.py`."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    values = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return [name for name in ("cuda", "hip", "xpu") if values.get(name)]


def list_visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [gpu.strip() for gpu in environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip()]
    return [str(index) for index in range(count_gpus())]


def choose_worker_count(models: int, device: Literal["cpu", "cuda"] | None, environ: Mapping[str, str]) -> int:
    """Return the number of pytest-xdist workers: one for each GPU, at most one for each model.

    0 means no workers: the tests run in pytest's own process.
    """
    if models < 2 or device == "cpu" or count_gpus() == 0:
        return 0
    gpus = len(list_visible_gpus(environ))
    return min(gpus, models) if gpus > 1 else 0


def share_machine(environ: Mapping[str, str], cores: int) -> dict[str, str]:
    """Return variables that give a pytest-xdist worker its own GPU and share of cores.

    Worker gw<i> of N sees one GPU, shared only if there are too few, and starts cores / N threads, unless
    OMP_NUM_THREADS says another number: N processes with a thread for each core slow each other down.
    Nothing is set outside of a worker.
    """
    worker = environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw"):
        return {}
    gpus = list_visible_gpus(environ)
    device = {"CUDA_VISIBLE_DEVICES": gpus[int(worker[2:]) % len(gpus)]} if gpus else {}
    threads = max(1, cores // int(environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return device | ({} if "OMP_NUM_THREADS" in environ else {"OMP_NUM_THREADS": str(threads)})
