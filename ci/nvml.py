"""What the NVIDIA driver reports of each GPU: the only module that reads NVML, by nvidia-ml-py.

No value comes from the text of nvidia-smi.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOT_AVAILABLE = ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_FUNCTION_NOT_FOUND")
"""These errors mean that this card or user does not have the value. They do not mean that the card is faulty."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds a context on a GPU. `name` and `user` are empty if this host cannot see it."""

    pid: int
    memory: int | None
    name: str = ""
    user: str = ""


@dataclass(frozen=True)
class RowRemap:
    """NVML's row remapping: rows remapped for correctable and uncorrectable errors, a pending one, a failed one."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it. None: this card does not have the value.

    `errors` are the values that NVML answered with an error (nvidia-smi prints ERR!), by name. Memory is in bytes; ECC
    counts are double-bit (uncorrected) errors. `fabric`: how far the fabric manager has come, on NVSwitch systems only.
    """

    index: int
    minor: int | None = None
    uuid: str = ""
    name: str = ""
    pci: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    ecc_on: bool | None = None
    ecc_volatile: int | None = None
    ecc_aggregate: int | None = None
    remap: RowRemap | None = None
    retirement_pending: bool | None = None
    mig: bool | None = None
    fabric: str | None = None
    processes: tuple[GpuProcess, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Nvml:
    """What the driver reports. `problem` says in one line why there is nothing."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    problem: str = ""


def read_nvml(pynvml: Any = None) -> Nvml:
    """Read what the driver reports of every GPU. Never raises: the record holds what is wrong."""
    if pynvml is None:
        try:
            pynvml = import_module("pynvml")
        except ImportError:
            return Nvml(problem="nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as failure:
        return Nvml(problem=_explain_init_error(pynvml, failure))
    try:
        return _read_gpus(pynvml)
    except pynvml.NVMLError as failure:
        return Nvml(problem=f"NVML stopped answering: {failure}")
    finally:
        pynvml.nvmlShutdown()


def _read_gpus(pynvml: Any) -> Nvml:
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return Nvml(
        gpus=tuple(_read_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
    )


def _explain_init_error(pynvml: Any, failure: Any) -> str:
    hints = {
        "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver on this host (libnvidia-ml.so.1 not found)",
        "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA kernel driver is not loaded: modprobe nvidia, then see dmesg",
        "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and library versions differ after an upgrade: reboot",
        "NVML_ERROR_NO_PERMISSION": "this user may not open /dev/nvidiactl",
    }
    known = {getattr(pynvml, name): text for name, text in hints.items()}
    return known.get(failure.value, f"NVML does not start: {failure}")


def _read_gpu(pynvml: Any, index: int) -> Gpu:
    errors: dict[str, str] = {}
    not_available = {getattr(pynvml, name) for name in NOT_AVAILABLE}

    def ask(what: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except pynvml.NVMLError as failure:
            if failure.value not in not_available:
                errors[what] = str(failure)
            return None

    handle = ask("handle", pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index, errors=errors or {"handle": "not accessible to this user"})
    return Gpu(index, **_read_identity(pynvml, handle, ask), **_read_health(pynvml, handle, ask), errors=errors)


def _read_identity(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> dict[str, Any]:
    pci = ask("pci", pynvml.nvmlDeviceGetPciInfo, handle)
    return {
        "minor": ask("minor", pynvml.nvmlDeviceGetMinorNumber, handle),
        "uuid": ask("uuid", pynvml.nvmlDeviceGetUUID, handle) or "",
        "name": ask("name", pynvml.nvmlDeviceGetName, handle) or "",
        "pci": pci.busId if pci else "",
    }


def _read_health(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> dict[str, Any]:
    for name in ("Temperature", "PowerUsage", "UtilizationRates"):
        # Read only to see whether the card answers: ERR! in a column of nvidia-smi is the first sign of a failing card.
        args = (pynvml.NVML_TEMPERATURE_GPU,) if name == "Temperature" else ()
        ask(name.lower(), getattr(pynvml, f"nvmlDeviceGet{name}"), handle, *args)
    memory = ask("memory", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2))
    modes = ask("ecc mode", pynvml.nvmlDeviceGetEccMode, handle)
    rows = ask("row remapping", pynvml.nvmlDeviceGetRemappedRows, handle)
    retired = ask("page retirement", pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
    mig = ask("mig", pynvml.nvmlDeviceGetMigMode, handle)
    return {
        "memory_total": memory.total if memory else None,
        "memory_used": memory.used if memory else None,
        "ecc_on": bool(modes[0]) if modes else None,
        "ecc_volatile": _count_uncorrected(pynvml, handle, ask, "VOLATILE"),
        "ecc_aggregate": _count_uncorrected(pynvml, handle, ask, "AGGREGATE"),
        "remap": RowRemap(rows[0], rows[1], bool(rows[2]), bool(rows[3])) if rows else None,
        "retirement_pending": bool(retired) if retired is not None else None,
        "mig": bool(mig[0]) if mig else None,
        "fabric": _read_fabric(pynvml, handle, ask),
        "processes": _read_processes(pynvml, handle, ask),
    }


FABRIC_STATES = {1: "not started", 2: "in progress", 3: "completed"}
"""NVML_GPU_FABRIC_STATE_…; 0 says that the card has no fabric."""


def _read_fabric(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> str | None:
    """Read how far the card's registration with the fabric manager is.

    Without it CUDA ends with error 802.
    https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/
    """
    if not hasattr(pynvml, "c_nvmlGpuFabricInfo_v2_t"):
        return None  # an nvidia-ml-py older than the call
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    if ask("fabric", pynvml.nvmlDeviceGetGpuFabricInfoV, handle, byref(info)) is None:
        return None
    state = FABRIC_STATES.get(info.state)
    return f"{state}, status {info.status}" if state == "completed" and info.status else state


def _count_uncorrected(pynvml: Any, handle: Any, ask: Callable[..., Any], counter: str) -> int | None:
    """Count uncorrected errors since the driver was loaded (VOLATILE) or ever (AGGREGATE)."""
    kind = getattr(pynvml, f"NVML_{counter}_ECC")
    uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    count: int | None = ask(f"ecc {counter.lower()}", pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, kind)
    return count


def _read_processes(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> tuple[GpuProcess, ...]:
    running: Iterable[Any] = ask("processes", pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
    return tuple(GpuProcess(process.pid, process.usedGpuMemory, *_read_process(process.pid)) for process in running)


def _read_process(pid: int) -> tuple[str, str]:
    """Read command and user of a process; empty if it is gone or in another namespace."""
    process = Path("/proc", str(pid))
    try:
        return process.joinpath("comm").read_text().strip(), pwd.getpwuid(process.stat().st_uid).pw_name
    except (OSError, KeyError):
        return "", ""
