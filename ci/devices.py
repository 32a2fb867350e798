"""The CPU or the GPUs on which the suite runs, and how many processes share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Mapping


def default_device() -> Literal["cpu", "cuda"]:
    """Return `cuda` where torch sees a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: Literal["cpu", "cuda"]) -> None:
    """Raise InfrastructureError for a missing GPU: no subject is to blame for it."""
    if device == "cuda" and default_device() == "cpu":
        raise InfrastructureError("--device cuda: torch sees no GPU here; `hub-tests doctor` says why")


def list_visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [gpu.strip() for gpu in environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def choose_worker_count(models: int, device: Literal["cpu", "cuda"] | None, environ: Mapping[str, str]) -> int:
    """Return the number of pytest-xdist workers: one for each GPU, at most one for each model.

    0 means no workers: the tests run in pytest's own process.
    """
    if models < 2 or (device or default_device()) == "cpu":
        return 0
    gpus = len(list_visible_gpus(environ))
    return min(gpus, models) if gpus > 1 else 0


def share_machine(environ: Mapping[str, str], cores: int) -> dict[str, str]:
    """Return the variables that give a pytest-xdist worker its own GPU and its share of the cores.

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
