"""What the suite assumes when it is not told: device, GPUs, and the pins of `--checkpoints`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from ci.errors import GatedError, HubTestsError, InfrastructureError, RequestError
from ci.hub.fetch import Checkpoint
from ci.records import read_dict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def default_device() -> Literal["cpu", "cuda"]:
    """`cuda` where torch sees a GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: Literal["cpu", "cuda"]) -> None:
    """Raises InfrastructureError for a GPU that was asked for and is not there: that says nothing about a subject."""
    if device == "cuda" and default_device() == "cpu":
        raise InfrastructureError("--device cuda: torch sees no GPU here; `hub-tests doctor` says why")


def layers_option(text: str) -> int | Literal["auto"]:
    """`N` or `auto`. Raises RequestError for anything else."""
    if text == "auto":
        return "auto"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise RequestError(f"--layers {text}: expected a number of layers, 1 or more, or auto")


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [gpu.strip() for gpu in environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def read_checkpoints(path: Path | None) -> dict[str, Checkpoint | HubTestsError]:
    """What `hub-tests fetch --json` printed, by registry name: `name` beside the keys of a Checkpoint.

    `hub-tests run` also writes down which model could not be had and why: it is not asked for a second time.
    """
    if path is None:
        return {}
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--checkpoints {path}: expected what `hub-tests fetch --json` printed: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"--checkpoints {path}: expected a list of records, as `hub-tests fetch --json` prints it")
    return {str(row.pop("name", "")): _checkpoint(row, path) for row in rows}


def _checkpoint(row: dict[str, Any], path: Path) -> Checkpoint | HubTestsError:
    if "error" in row:
        return (GatedError if row.get("gated") else InfrastructureError)(str(row["error"]))
    return read_dict(Checkpoint, row, what=f"--checkpoints {path}")
