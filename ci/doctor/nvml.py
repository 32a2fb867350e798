"""The only reader of NVML. Every value comes from nvidia-ml-py; nothing is parsed out of nvidia-smi's text."""

from __future__ import annotations

import pwd
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.doctor.records import Gpu, GpuProcess, Nvml, RowRemap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ABSENT = ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_FUNCTION_NOT_FOUND")
"""Answers that mean "this card or user does not have that value", not "the card is ill"."""


def read_nvml(pynvml: Any = None) -> Nvml:
    """The driver's view of every GPU. Never raises: what is wrong is in the record, which is the point of asking."""
    if pynvml is None:
        try:
            pynvml = import_module("pynvml")
        except ImportError:
            return Nvml(problem="nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as failure:
        return Nvml(problem=_why_no_nvml(pynvml, failure))
    try:
        return _read(pynvml)
    except pynvml.NVMLError as failure:
        return Nvml(problem=f"NVML stopped answering: {failure}")
    finally:
        pynvml.nvmlShutdown()


def _read(pynvml: Any) -> Nvml:
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return Nvml(
        gpus=tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
    )


def _why_no_nvml(pynvml: Any, failure: Any) -> str:
    hints = {
        "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver on this host (libnvidia-ml.so.1 not found)",
        "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA kernel driver is not loaded: modprobe nvidia, then see dmesg",
        "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and library versions differ after an upgrade: reboot",
        "NVML_ERROR_NO_PERMISSION": "this user may not open /dev/nvidiactl",
    }
    known = {getattr(pynvml, name): text for name, text in hints.items()}
    return known.get(failure.value, f"NVML does not start: {failure}")


def _gpu(pynvml: Any, index: int) -> Gpu:
    errors: dict[str, str] = {}
    absent = {getattr(pynvml, name) for name in ABSENT}

    def ask(what: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except pynvml.NVMLError as failure:
            if failure.value not in absent:
                errors[what] = str(failure)
            return None

    handle = ask("handle", pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index, errors=errors or {"handle": "not accessible to this user"})
    return Gpu(index, **_identity(pynvml, handle, ask), **_health(pynvml, handle, ask), errors=errors)


def _identity(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> dict[str, Any]:
    pci = ask("pci", pynvml.nvmlDeviceGetPciInfo, handle)
    return {
        "minor": ask("minor", pynvml.nvmlDeviceGetMinorNumber, handle),
        "uuid": ask("uuid", pynvml.nvmlDeviceGetUUID, handle) or "",
        "name": ask("name", pynvml.nvmlDeviceGetName, handle) or "",
        "pci": pci.busId if pci else "",
    }


def _health(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> dict[str, Any]:
    for name in ("Temperature", "PowerUsage", "UtilizationRates"):
        # Only whether the card answers: a column that reads ERR! is the first sign of a card that is leaving.
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
        "ecc_volatile": _double_bit(pynvml, handle, ask, "VOLATILE"),
        "ecc_aggregate": _double_bit(pynvml, handle, ask, "AGGREGATE"),
        "remap": RowRemap(rows[0], rows[1], bool(rows[2]), bool(rows[3])) if rows else None,
        "retirement_pending": bool(retired) if retired is not None else None,
        "mig": bool(mig[0]) if mig else None,
        "processes": _processes(pynvml, handle, ask),
    }


def _double_bit(pynvml: Any, handle: Any, ask: Callable[..., Any], counter: str) -> int | None:
    """Uncorrected errors since the driver was loaded (VOLATILE) or ever (AGGREGATE)."""
    kind = getattr(pynvml, f"NVML_{counter}_ECC")
    uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    count: int | None = ask(f"ecc {counter.lower()}", pynvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, kind)
    return count


def _processes(pynvml: Any, handle: Any, ask: Callable[..., Any]) -> tuple[GpuProcess, ...]:
    running: Iterable[Any] = ask("processes", pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
    return tuple(GpuProcess(each.pid, each.usedGpuMemory, *_who(each.pid)) for each in running)


def _who(pid: int) -> tuple[str, str]:
    """Command and user of a process; empty where it is gone or belongs to another process namespace."""
    process = Path("/proc", str(pid))
    try:
        return process.joinpath("comm").read_text().strip(), pwd.getpwuid(process.stat().st_uid).pw_name
    except (OSError, KeyError):
        return "", ""
