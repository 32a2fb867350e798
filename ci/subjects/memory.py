"""How much memory there is for a forward, and giving back what one no longer needs."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import torch

ROOT = Path("/")


def free_memory(device: str) -> int:
    """Bytes that a forward on `device` can take. What the system keeps of files counts as free: it goes when asked.

    On the host it is the least of the system's and of every control group that this process is in, as a container's
    limit is one: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    try:
        known = [_available(ROOT), *_left_in_groups(ROOT)]
    except OSError:  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min(known)


def _available(root: Path) -> int:
    """https://docs.kernel.org/filesystems/proc.html#meminfo, in bytes."""
    return 1024 * _field(root / "proc/meminfo", "MemAvailable:")


def _left_in_groups(root: Path) -> list[int]:
    """What is left below the limit of each group of version 2, from this process's own up to the root's."""
    own = re.search(r"^0::(/.*)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)
    if own is None:
        return []
    top = root / "sys/fs/cgroup"
    group = top / own[1].lstrip("/")
    chain = [path for path in (group, *group.parents) if path.is_relative_to(top)]
    return [left for path in chain if (left := _left(path)) is not None]


def _left(group: Path) -> int | None:
    """Below the limit; None where the group has none."""
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        return max(0, int(limit) - used + _field(group / "memory.stat", "inactive_file"))
    except FileNotFoundError:  # the root has no limit, and a container does not see what is above its own
        return None


def _field(path: Path, name: str) -> int:
    rows = (line.split() for line in path.read_text().splitlines())
    return next(int(row[1]) for row in rows if row[0] == name)


def weight_bytes(checkpoint: Path, itemsize: int, *, stored: int = 2) -> int:
    """What a directory's weights take with `itemsize` bytes an element, `stored` ones on disk; at most, with two."""
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) * itemsize // stored


def set_workspace_apart(device: str) -> None:
    """Before the first model: cuBLAS's workspace, which stays, into a segment of its own.

    Transformers takes a model's memory as one segment before it loads. Were the workspace, 32 MB, cut from it by the
    first product, that whole segment would stay with this process: `empty_cache` returns only what is wholly unused.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cublas-workspaces
    """
    if device.startswith("cuda"):
        one = torch.ones(1, 1, device=device)
        torch.addmm(one[0], one, one)


def give_back_memory(*, held: bool = True) -> None:
    """Return what is no longer referenced to the device, so that the other side of a comparison can have it.

    With `held` a model may be in a cycle of references, or hold one itself: finding those takes a tenth of a second.
    """
    if held:
        gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
