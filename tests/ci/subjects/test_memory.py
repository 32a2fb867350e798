"""What a forward may take, what weights will take, and that a device gets its memory back."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ci.subjects import memory

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available, 1 GiB of them free, and this process in the group /ci/job."""
    kilobytes = {"MemTotal": 16 * GIB // 1024, "MemFree": GIB // 1024, "MemAvailable": 8 * GIB // 1024}
    _write(tmp_path / "proc/meminfo", "".join(f"{name}: {value} kB\n" for name, value in kilobytes.items()))
    _write(tmp_path / "proc/self/cgroup", "4:memory:/old\n0::/ci/job\n")
    (tmp_path / "sys/fs/cgroup/ci/job").mkdir(parents=True)
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _limit(group: Path, most: str, current: int, inactive_file: int) -> None:
    _write(group / "memory.max", f"{most}\n")
    _write(group / "memory.current", f"{current}\n")
    _write(group / "memory.stat", f"anon 1\ninactive_file {inactive_file}\nactive_file 5\n")


def test_what_the_system_keeps_of_files_counts_as_free(host: Path) -> None:
    _limit(host / "sys/fs/cgroup/ci/job", "max", 5 * GIB, 0)
    assert memory.free_memory("cpu") == 8 * GIB


@pytest.mark.parametrize("where", ["ci/job", "ci", "."])
def test_a_group_above_limits_too(host: Path, where: str) -> None:
    _limit(host / "sys/fs/cgroup" / where, str(4 * GIB), 3 * GIB, 2 * GIB)
    assert memory.free_memory("cpu") == 3 * GIB


def test_beyond_its_limit_nothing_is_left(host: Path) -> None:
    _limit(host / "sys/fs/cgroup/ci", str(GIB), 2 * GIB, 0)
    assert memory.free_memory("cpu") == 0


def test_without_linux_half_of_the_memory_is_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.free_memory("cpu") > 1 << 28


def test_here_it_is_a_number_of_bytes() -> None:
    assert memory.free_memory("cpu") > 1 << 28


def test_weights_are_counted_as_they_will_lie_in_memory(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    (tmp_path / "config.json").write_bytes(bytes(7))
    assert memory.weight_bytes(tmp_path, 4) == 200
    assert memory.weight_bytes(tmp_path, 8, stored=4) == 200


def test_the_dtypes_on_disk_are_read(tmp_path: Path) -> None:
    assert memory.read_stored_itemsize(tmp_path) == 2
    save_file({"a": torch.ones(3)}, tmp_path / "one.safetensors")
    assert memory.list_stored_dtypes(tmp_path) == {"F32"}
    assert memory.read_stored_itemsize(tmp_path) == 4
    save_file({"b": torch.ones(3, dtype=torch.bfloat16), "c": torch.ones(2)}, tmp_path / "two.safetensors")
    assert memory.list_stored_dtypes(tmp_path) == {"F32", "BF16"}
    assert memory.read_stored_itemsize(tmp_path) == 2


RELEASED = """
import torch
from ci.subjects.memory import release_unused_memory, allocate_cublas_workspace
{first}
warm = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")  # as transformers does before it loads
del warm
torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
release_unused_memory()
print(torch.cuda.memory_reserved())
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("first", "least", "most"), [("", 1 << 28, 1 << 30), ('allocate_cublas_workspace("cuda")', 0, 1 << 26)]
)
def test_a_model_s_memory_goes_back_whole(first: str, least: int, most: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RELEASED.format(first=first)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert least <= int(done.stdout) <= most


@pytest.mark.parametrize(("free", "device", "fits"), [(10_000, "cpu", True), (900, "cpu", False), (900, "cuda", True)])
def test_a_conversion_and_hugging_face_at_once_need_memory_for_both(
    free: int, device: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))  # 50 numbers in bfloat16: 200 bytes in float32
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    assert memory.fits_beside_conversion(tmp_path, device) is fits
