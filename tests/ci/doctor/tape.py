"""NVML on tape: record every call of a real NVML, and play the tape back through the same names.

Record on a host with a GPU: `python -m tests.ci.doctor.tape > tests/ci/doctor/recorded/NAME.json`.
A tape maps a call such as `nvmlDeviceGetName(gpu0)` to its value, or to {"error": code} where it raised NVMLError.
"""

from __future__ import annotations

import ctypes
import json
import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

pynvml = import_module("pynvml")
HANDLE = "nvmlDeviceGetHandleByIndex"


def key(name: str, args: tuple[Any, ...]) -> str:
    shown = (type(filled).__name__ if (filled := structure(arg)) else str(arg) for arg in args)
    return f"{name}({', '.join(shown)})"


def structure(arg: Any) -> ctypes.Structure | None:
    """The structure behind `ctypes.byref`, which NVML fills."""
    found = getattr(arg, "_obj", None)
    return found if isinstance(found, ctypes.Structure) else None


class Recorder:
    """Passes calls on to the real NVML and keeps what it answered."""

    def __init__(self) -> None:
        self.tape: dict[str, Any] = {}
        self.gpus: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        return self._recorded(name, real) if name.startswith("nvml") and callable(real) else real

    def _recorded(self, name: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            spoken = key(name, tuple(self.gpus.get(id(arg), arg) for arg in args))
            try:
                answer = real(*args, **options)
            except pynvml.NVMLError as failure:
                self.tape[spoken] = {"error": failure.value}
                raise
            if name == HANDLE:
                self.gpus[id(answer)] = f"gpu{args[0]}"
            filled = next(filter(None, map(structure, args)), None)
            self.tape[spoken] = self.gpus.get(id(answer)) or plain(filled or answer)
            return answer

        return call


def plain(value: Any) -> Any:
    """An answer of NVML as JSON."""
    if isinstance(value, list | tuple | ctypes.Array):
        return [plain(item) for item in value]
    if isinstance(value, ctypes.Structure):
        return {field[0]: plain(getattr(value, field[0])) for field in value._fields_}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    known = value is None or isinstance(value, str | int | float | bool)
    return value if known else {name: plain(item) for name, item in vars(value).items()}


class Player:
    """NVML as the tape has it. A call that is not on the tape is a mistake of the test."""

    def __init__(self, tape: dict[str, Any]) -> None:
        self.tape = tape

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        if not (name.startswith("nvml") and callable(real)):
            return real
        return lambda *args, **_: self._fill(self._play(key(name, args)), args)

    @staticmethod
    def _fill(answer: Any, args: tuple[Any, ...]) -> Any:
        for filled in filter(None, map(structure, args)):
            for name, value in vars(answer).items():
                if isinstance(value, int):
                    setattr(filled, name, value)
            return 0
        return answer

    def _play(self, spoken: str) -> Any:
        answer = self.tape[spoken]
        if isinstance(answer, dict) and "error" in answer:
            raise pynvml.NVMLError(answer["error"])
        return lively(answer)


def lively(value: Any) -> Any:
    """JSON as NVML would answer it: objects have attributes."""
    if isinstance(value, list):
        return [lively(item) for item in value]
    return SimpleNamespace(**value) if isinstance(value, dict) else value


if __name__ == "__main__":
    from ci.nvml import read_nvml

    recorder = Recorder()
    read_nvml(recorder)
    json.dump(recorder.tape, sys.stdout, indent=1)
