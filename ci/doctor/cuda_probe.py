"""A small computation on each GPU, in its own process: if the driver hangs or crashes, only this process is lost.

Run as `python -I cuda_probe.py driver|torch [GPU-UUID …]`; prints one JSON object. `driver` calls libcuda through
ctypes and needs only the standard library, so it works on a bare host; `torch` computes with PyTorch if it is there.
https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

WORDS = 1 << 18
BLOCK = 256
KERNEL = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry squares(.param .u64 out)
{
    .reg .u32 %i, %n, %t;
    .reg .u64 %p, %o;
    mov.u32 %i, %ctaid.x;
    mov.u32 %n, %ntid.x;
    mov.u32 %t, %tid.x;
    mad.lo.u32 %i, %i, %n, %t;
    mad.lo.u32 %n, %i, %i, 7;
    ld.param.u64 %p, [out];
    cvta.to.global.u64 %p, %p;
    mul.wide.u32 %o, %i, 4;
    add.u64 %p, %p, %o;
    st.global.u32 [%p], %n;
    ret;
}
\0"""
"""out[i] = i * i + 7 modulo 2^32, in PTX old enough for every driver in use."""


class CudaError(Exception):
    """A driver call that did not return CUDA_SUCCESS."""


class Driver:
    """The few calls of libcuda that are needed, each checked."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, name: str, *args: Any) -> None:
        """Call `name`. Raises CudaError unless it succeeds."""
        code = getattr(self.library, name)(*args)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({code})")


def probe_driver(wanted: list[str]) -> dict[str, Any]:
    """Compute on every wanted GPU and compare each number; no UUID means all of them."""
    cuda = Driver()
    cuda("cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda("cuDriverGetVersion", ctypes.byref(version))
    cuda("cuDeviceGetCount", ctypes.byref(count))
    handles = {_read_uuid(cuda, index): index for index in range(count.value)}
    return {
        "version": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "devices": {uuid: _try_compute(_count_wrong_driver, cuda, handles.get(uuid)) for uuid in wanted or handles},
    }


def _read_uuid(cuda: Driver, index: int) -> str:
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    cuda("cuDeviceGet", ctypes.byref(device), index)
    cuda("cuDeviceGetUuid", ctypes.byref(raw), device)
    text = bytes(raw).hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _try_compute(compute: Any, *args: Any) -> str:
    if args[-1] is None:
        return "CUDA does not see this GPU"
    # Any error is the result of this GPU; the next GPU is still tried.
    try:
        wrong = compute(*args)
    except Exception as failure:
        return str(failure).strip().splitlines()[0][:300] or type(failure).__name__
    return f"{wrong} numbers are wrong" if wrong else ""


def _count_wrong_driver(cuda: Driver, device: int) -> int:
    """Count the wrong results on one GPU. Its context is always released."""
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    memory, result = ctypes.c_uint64(), (ctypes.c_uint32 * WORDS)()
    cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        cuda("cuCtxSetCurrent", context)
        cuda("cuModuleLoadData", ctypes.byref(module), KERNEL)
        cuda("cuModuleGetFunction", ctypes.byref(function), module, b"squares")
        cuda("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4 * WORDS))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(memory))
        cuda("cuLaunchKernel", function, WORDS // BLOCK, 1, 1, BLOCK, 1, 1, 0, None, arguments, None)
        cuda("cuCtxSynchronize")
        cuda("cuMemcpyDtoH_v2", result, memory, ctypes.c_size_t(4 * WORDS))
    finally:
        cuda.library.cuDevicePrimaryCtxRelease_v2(device)
    return sum(result[i] != (i * i + 7) & 0xFFFFFFFF for i in range(WORDS))


def probe_torch(wanted: list[str]) -> dict[str, Any]:
    """Multiply integer-valued float32 matrices, which is exact, and compare with the CPU.

    On every wanted GPU that PyTorch sees.
    """
    try:
        import torch
    except ImportError:
        return {"absent": "torch is not installed in this interpreter"}
    if torch.version.cuda is None:
        return {"absent": f"torch {torch.__version__} is built without CUDA", "version": str(torch.__version__)}
    seen = range(torch.cuda.device_count())
    handles = {f"GPU-{torch.cuda.get_device_properties(index).uuid}": index for index in seen}
    return {
        "version": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "devices": {uuid: _try_compute(_count_wrong_torch, torch, handles.get(uuid)) for uuid in wanted or handles},
    }


def _count_wrong_torch(torch: Any, device: int) -> int:
    left = (torch.arange(256 * 256) % 7).reshape(256, 256).float()
    right = (torch.arange(256 * 256) % 5).reshape(256, 256).float()
    got = (left.to(f"cuda:{device}") @ right.to(f"cuda:{device}")).cpu()
    return int((got != left @ right).sum())


def main(arguments: list[str]) -> int:
    """Print the answer of the probe that the first argument names."""
    probe = {"driver": probe_driver, "torch": probe_torch}[arguments[0]]
    try:
        answer = probe(arguments[1:])
    except (OSError, CudaError, RuntimeError) as failure:
        answer = {"problem": str(failure).strip().splitlines()[0][:300]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
