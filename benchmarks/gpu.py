"""The suite on a GPU at production shapes: `python -m benchmarks.gpu [MODEL …] [--subject …] [--out DIR]`.

With `--compile-cache DIR` each model's job runs twice: it fills the compile cache, then it runs with it.

Each model's checkpoint is generated at two layers with the exact shapes of its production config (weights from the
non-degenerate recipe, made on the device), served by the stand-in Hub, fetched into the store as the job before the
GPU's does, and taken through `hub-tests run --device cuda`. One row a test: verdict, worst tensor with its error, floor
and margin, wall time and where it went, peak GPU memory; one a model: how often the GPU was busy, and the whole job
against reading the same bytes into GPU memory once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._figure import Figure
from benchmarks._serve_model import serve_full_size
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ("mixtral", "llama3-8b", "mistral", "qwen2-7b")
TARGET = 2.0
"""Seconds of the job, over seconds to read its bytes into GPU memory."""


@dataclass
class Usage:
    """What NVML saw while a job ran: share of samples with a running kernel, and the peak of used memory."""

    samples: list[int] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def busy(self) -> float:
        """Mean utilisation, 0 to 1."""
        return sum(self.samples) / (100 * len(self.samples)) if self.samples else 0.0


@contextmanager
def watched(period: float = 0.1) -> Iterator[Usage]:
    """Sample the first GPU through NVML until the context ends."""
    import pynvml  # type: ignore[import-untyped]

    pynvml.nvmlInit()
    handle, usage, over = pynvml.nvmlDeviceGetHandleByIndex(0), Usage(), threading.Event()

    def sample() -> None:
        while not over.wait(period):
            usage.samples.append(int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            usage.peak_bytes = max(usage.peak_bytes, int(pynvml.nvmlDeviceGetMemoryInfo(handle).used))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield usage
    finally:
        over.set()
        thread.join()
        pynvml.nvmlShutdown()


def read_seconds(directory: Path) -> tuple[float, float]:
    """Return the seconds to read the shards into GPU memory, from disk and from cache.

    The cache of the disk is asked to forget the files first; the second figure is the best of three.
    """
    import torch
    from safetensors.torch import load_file

    shards, taken = sorted(directory.glob("*.safetensors")), []
    for shard in shards:
        with shard.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for _ in range(4):
        started = time.perf_counter()
        tensors = [load_file(shard, device="cuda") for shard in shards]
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
        del tensors
    torch.cuda.empty_cache()
    return taken[0], min(taken[1:])


@dataclass(frozen=True)
class Job:
    """One model's job: its results record, seconds in all, GPU usage, and seconds to read its bytes (disk, cache)."""

    model: str
    results: dict[str, Any]
    seconds: float
    usage: Usage
    read_seconds: tuple[float, float]
    code: int


def job(name: str, options: argparse.Namespace, hub: HubServer, scratch: Path) -> list[Job]:
    """Generate the checkpoint of a model, serve it and run the job; with a compile cache cold, then warm."""
    directory, keys = scratch / name, dict(pair.split("=", 1) for pair in options.config)
    values = {key: json.loads(value) for key, value in keys.items()}
    serve_full_size(hub, name, directory, device="cuda", keys=values, head_dim=options.head_dim, drop=options.drop)
    _free_gpu_memory()
    seconds_to_read = read_seconds(directory)
    _free_gpu_memory()
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HUB_TESTS_CACHE": str(scratch / "store")}
    fetched = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ci", "fetch", name], env=environ, check=True)
    print(f"{name}: fetched in {time.perf_counter() - fetched:.1f} s", file=sys.stderr)
    cache = ["--compile-cache", str(options.compile_cache)]
    turns = {"-cold": [*cache, "--fill-compile-cache"], "-warm": cache} if options.compile_cache else {"": []}
    return [
        _run(f"{name}{turn}", name, [*words, *options.more], environ, options, seconds_to_read)
        for turn, words in turns.items()
    ]


def _run(
    label: str,
    name: str,
    more: list[str],
    environ: dict[str, str],
    options: argparse.Namespace,
    seconds_to_read: tuple[float, float],
) -> Job:
    report = options.out / f"{label}-{options.subject}"
    words = [sys.executable, "-m", "ci", "run", name, "--device", "cuda", "--subject", options.subject]
    words += ["--report", str(report), *more]
    with watched() as usage:
        started = time.perf_counter()
        code = subprocess.run(words, env=environ, check=False).returncode
        seconds = time.perf_counter() - started
    results = json.loads((report / "report.json").read_bytes())
    return Job(label, results, seconds, usage, seconds_to_read, code)


def _compile_bytecode(words: list[str]) -> None:
    """Compile the modules below `--subject-path`, as an overlay's are: no sandboxed worker can keep its own."""
    values = dict(pairwise(words))
    if "--subject-path" in values:
        python = values.get("--subject-python", sys.executable)
        subprocess.run([python, "-m", "compileall", "-q", values["--subject-path"]], check=False)


def _free_gpu_memory() -> None:
    import torch

    torch.cuda.empty_cache()


SPENT = (
    "hugging_face.load",
    "hugging_face.forward",
    "hugging_face.compare",
    "subject.load",
    "subject.forward",
    "subject.compare",
)
"""Where a test's time goes; what is left is converting, hashing, and Hugging Face's own noise being compared."""


def rows(done: Job) -> Iterator[str]:
    """Yield a Markdown row for each test."""
    for entry in done.results["entries"]:
        for case in entry["cases"]:
            evidence = case.get("evidence") or {}
            worst, timings = evidence.get("worst") or {}, evidence.get("figures", {})
            numbers = [_number(worst.get(key)) for key in ("error", "floor", "ratio", "limit")]
            tensor = f"{worst['tensor']} ({worst['dtype']})" if worst else ""
            spent = [_summed(timings, f"{what}_seconds") for what in SPENT]
            peak = max((value for key, value in timings.items() if key.endswith("peak_device_bytes")), default=0)
            told = [
                f"{case['name']} {done.model.removeprefix(entry['name'])}".rstrip(),
                case["outcome"],
                tensor,
                *numbers,
                f"{case.get('seconds', 0):.1f}",
                *spent,
            ]
            yield "| " + " | ".join([*told, f"{peak / 1e9:.1f}" if peak else ""]) + " |"


def _summed(figures: dict[str, float], end: str) -> str:
    """Sum over both dtypes of a test."""
    seconds = [value for key, value in figures.items() if key.endswith(end)]
    return f"{sum(seconds):.1f}" if seconds else ""


def _number(value: object) -> str:
    return f"{value:.2e}" if isinstance(value, float) else ""


def report(jobs: list[Job]) -> str:
    """Return the whole table as Markdown."""
    spent = " | ".join(what.replace("hugging_face", "HF").replace(".", " ") for what in SPENT)
    head = f"| test | outcome | worst tensor | error | floor | ratio | limit | seconds | {spent} | peak GB |"
    rule = "|---" * 3 + "|---:" * (6 + len(SPENT)) + "|"
    lines = [head, rule, *(row for done in jobs for row in rows(done))]
    lines += ["", "| model | job s | read from disk s | cached s | job ÷ read from disk | GPU busy | peak GB |"]
    lines.append("|---" + "|---:" * 6 + "|")
    for done in jobs:
        usage = f"{done.usage.busy:.0%} | {done.usage.peak_bytes / 1e9:.1f}"
        disk, cache = done.read_seconds
        lines.append(
            f"| {done.model} | {done.seconds:.1f} | {disk:.2f} | {cache:.2f} | {done.seconds / disk:.1f} | {usage} |"
        )
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> list[Job]:
    """Run the job of each model in turn; each checkpoint is removed before the next."""
    jobs = []
    _compile_bytecode(options.more)
    for name in options.model:
        with tempfile.TemporaryDirectory(prefix="hub-tests-gpu-") as scratch, HubServer() as hub:
            jobs += job(name, options, hub, Path(scratch))
    return jobs


def main() -> list[Figure]:
    """Compare the job of each model with reading its bytes. Return nothing without a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("gpu: not measured, there is no CUDA device here", file=sys.stderr)
        return []
    jobs = measure(_options([]))
    return [
        Figure(f"{d.model}: job ÷ reading its bytes", d.seconds / d.read_seconds[0], "≤", TARGET, how="one GPU")
        for d in jobs
    ]


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("model", nargs="*", default=list(MODELS))
    parser.add_argument("--subject", default="reference")
    parser.add_argument("--config", action="append", default=[], help="KEY=VALUE to add to the production config.json")
    parser.add_argument("--head-dim", action="store_true", help="write head_dim into configs that leave it out")
    parser.add_argument("--drop", action="append", default=[], help="a key to take out of the production config.json")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--compile-cache", type=Path, help="run each job twice: fill this directory, then use it")
    options, more = parser.parse_known_args(argv)
    return argparse.Namespace(**vars(options), more=more)


if __name__ == "__main__":
    print(report(measure(_options(None))))
