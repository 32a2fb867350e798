"""The key of compiled code: it changes with everything that could make the code wrong, and with nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ci.nvml import Gpu, Nvml
from ci.subjects.compile_key import CompileTarget, hash_packages, read_compile_target

CPU = "processor : 0\nmodel name : Big CPU\nflags : avx2 fma\ncpu MHz : 2100\n\nprocessor : 1\nmodel name : Big CPU\n"
NVML = Nvml((Gpu(0, uuid="GPU-1", name="NVIDIA H100 80GB HBM3"),), "580.95.05", "13.0")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment with torch and triton, as their records say."""
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to("/usr/bin/env")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\n")
    for name in ("torch-2.9.0", "triton-3.5.0"):
        add_package(environment, name)
    return environment / "bin" / "python"


def add_package(environment: Path, name: str, record: str = "torch/__init__.py,sha256=abc,100\n") -> Path:
    directory = environment / "lib" / "python3.12" / "site-packages" / f"{name}.dist-info"
    directory.mkdir(parents=True)
    (directory / "RECORD").write_text(record)
    return directory


def read(python: Path, tmp_path: Path, nvml: Nvml = NVML, cpu: str = CPU) -> CompileTarget:
    (tmp_path / "cpuinfo").write_text(cpu)
    return read_compile_target(python, nvml, tmp_path / "cpuinfo")


def test_the_same_machine_and_packages_have_the_same_key(python: Path, tmp_path: Path) -> None:
    one = read(python, tmp_path)
    same = Nvml((Gpu(0, uuid="GPU-2", name="NVIDIA H100 80GB HBM3", memory_used=5),) * 2, "580.95.05", "13.0")
    assert read(python, tmp_path, same, CPU.replace("2100", "3700")).key == one.key
    assert len(one.key) == 32
    assert (one.gpus, one.driver) == (("NVIDIA H100 80GB HBM3",), "580.95.05 13.0")


@pytest.mark.parametrize(
    "change",
    [
        lambda python: add_package(python.parents[1], "numpy-2.1.0"),
        lambda python: (next(python.parents[1].rglob("torch*/RECORD"))).write_text("torch/__init__.py,sha256=other,1"),
        lambda python: (next(python.parents[1].rglob("torch*/RECORD"))).unlink(),
        lambda python: next(python.parents[1].rglob("triton*")).rename(python.parents[1] / "triton-3.6.0.dist-info"),
        lambda python: (python.unlink(), python.symlink_to("/usr/bin/true")),
    ],
)
def test_other_packages_are_another_key(change: object, python: Path) -> None:
    before = hash_packages(python)
    change(python)  # type: ignore[operator]
    assert hash_packages(python) != before


@pytest.mark.parametrize(
    ("nvml", "cpu"),
    [
        (Nvml((Gpu(0, name="NVIDIA A100"),), "580.95.05", "13.0"), CPU),
        (Nvml(NVML.gpus, "580.95.06", "13.0"), CPU),
        (Nvml(NVML.gpus, "580.95.05", "13.1"), CPU),
        (Nvml(problem="no driver"), CPU),
        (NVML, CPU.replace("fma", "fma avx512f")),
        (NVML, CPU.replace("Big", "Small")),
    ],
)
def test_another_machine_is_another_key(nvml: Nvml, cpu: str, python: Path, tmp_path: Path) -> None:
    assert read(python, tmp_path, nvml, cpu).key != read(python, tmp_path).key


def test_this_interpreter_has_a_key(tmp_path: Path) -> None:
    """Also one whose packages a .pth file links; nothing of it is run."""
    target = read_compile_target(Path(sys.executable), NVML, tmp_path / "no cpuinfo")
    assert len(target.packages) == 64
    assert "Linux" in target.system
