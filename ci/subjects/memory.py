"""Measures the free memory for a forward pass, and releases what is no longer needed."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import torch
from safetensors import safe_open

from ci.hub.header import DTYPE_BITS

ROOT = Path("/")

CONVERSION_FACTOR = 4
"""Memory that a conversion may take, in sizes of the float32 weights: read, converted, written, and one to spare."""
REFERENCE_FACTOR = 3
"""Memory that Hugging Face may take beside it on the CPU, in sizes of the float64 weights, forward pass included."""


def free_memory(device: str) -> int:
    """Return the bytes that a forward pass on `device` can use.

    The page cache counts as free, because the system drops it on demand. On the CPU it is the minimum of the system's
    free memory and of what is left in each control group of this process (a container's limit is a control group):
    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    try:
        limits = [_read_available(ROOT), *_read_group_limits(ROOT)]
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min(limits)


def _read_available(root: Path) -> int:
    """Return MemAvailable in bytes: https://docs.kernel.org/filesystems/proc.html#meminfo."""
    return 1024 * _read_field(root / "proc/meminfo", "MemAvailable:")


def _read_group_limits(root: Path) -> list[int]:
    """Return the bytes left in each version 2 control group of this process."""
    own = re.search(r"^0::(/.*)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)
    if own is None:
        return []
    top = root / "sys/fs/cgroup"
    group = top / own[1].lstrip("/")
    groups = [path for path in (group, *group.parents) if path.is_relative_to(top)]
    return [left for path in groups if (left := _read_bytes_left(path)) is not None]


def _read_bytes_left(group: Path) -> int | None:
    """Return the bytes left below a group's limit, None where it has no limit."""
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        return max(0, int(limit) - used + _read_field(group / "memory.stat", "inactive_file"))
    except FileNotFoundError:  # the root has no limit, and a container cannot see the groups above its own
        return None


def _read_field(path: Path, name: str) -> int:
    rows = (line.split() for line in path.read_text().splitlines())
    return next(int(row[1]) for row in rows if row[0] == name)


def weight_bytes(checkpoint: Path, itemsize: int, *, stored: int = 2) -> int:
    """Return the bytes of a directory's weights at `itemsize` bytes an element.

    `stored` is the size of an element on disk. The default, 2, is the smallest, so that the answer is an upper limit.
    """
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) * itemsize // stored


def list_stored_dtypes(checkpoint: Path) -> frozenset[str]:
    """Return the dtypes of a directory's tensors, as safetensors names them: `BF16`, `F32`."""
    dtypes: set[str] = set()
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            dtypes |= {file.get_slice(name).get_dtype() for name in list(file.keys())}
    return frozenset(dtypes)


def read_stored_itemsize(checkpoint: Path) -> int:
    """Return the bytes of a directory's smallest elements, 2 where it has no tensors."""
    return min((max(1, DTYPE_BITS[dtype] // 8) for dtype in list_stored_dtypes(checkpoint)), default=2)


def fits_beside_conversion(checkpoint: Path, device: str) -> bool:
    """Return whether a conversion and Hugging Face's model fit into memory at the same time."""
    needed = CONVERSION_FACTOR * weight_bytes(checkpoint, 4)
    if device == "cpu":
        needed += REFERENCE_FACTOR * weight_bytes(checkpoint, 8)
    return free_memory("cpu") > needed


def allocate_cublas_workspace(device: str) -> None:
    """Allocate cuBLAS's workspace, which stays allocated, before the first model.

    Transformers allocates a model's memory as one segment before it loads. If the first matrix product took the
    workspace (32 MB) from that segment, the whole segment would stay allocated: `empty_cache` returns only segments
    that are entirely unused.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cublas-workspaces
    """
    if device.startswith("cuda"):
        one = torch.ones(1, 1, device=device)
        torch.addmm(one[0], one, one)


def release_unused_memory(*, collect: bool = True) -> None:
    """Return unused device memory, so that the other side of a comparison can use it.

    `collect` runs the garbage collector first, which takes about 0.1 s: a model may be part of a reference cycle.
    """
    if collect:
        gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
