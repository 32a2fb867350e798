"""The group `release` at production shapes on all GPUs of a machine: `python -m benchmarks.gpu_release [--subject …]`.

Every model of the group is generated at two layers with the shapes of its production config, served by the stand-in Hub
and fetched. `hub-tests run @release --device cuda` then runs once for each number of GPUs: with one, and with all of
them, one model on a GPU at a time. With `--small` the models have the stand-in's odd small sizes instead, with
`--whole-blocks` small ones that block-sparse kernels take. One row a model and run: verdict, worst tensor, seconds;
last, the throughput against one GPU. With `--deep`, or another option of `hub-tests run`, each run has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._figure import Figure, show
from benchmarks._serve_model import serve_full_size, serve_small
from ci.models import load_models
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "release"
EFFICIENCY = 0.8
"""Wanted throughput of N GPUs, as a share of N times one GPU's."""


@dataclass(frozen=True)
class Run:
    """One run of the group: GPUs it had, its results record, seconds in all, and the exit code."""

    gpus: int
    results: dict[str, Any]
    seconds: float
    code: int


def run(names: list[str], gpus: list[int], environ: dict[str, str], options: argparse.Namespace) -> Run:
    """Run the suite over the models on some of the GPUs."""
    out = options.out / f"release-{len(gpus)}-gpus-{options.subject}"
    words = [sys.executable, "-m", "ci", "run", *names, "--device", options.device, "--subject", options.subject]
    words += ["--report", str(out), *options.more]
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    started = time.perf_counter()
    code = subprocess.run(words, env={**environ, **visible}, check=False).returncode
    seconds = time.perf_counter() - started
    return Run(len(gpus), json.loads((out / "report.json").read_bytes()), seconds, code)


def rows(done: Run) -> Iterator[str]:
    """Yield a Markdown row for each model of a run."""
    for entry in done.results["entries"]:
        cases = entry["cases"]
        passed = sum(case["outcome"] == "passed" for case in cases)
        worst = max(
            ((case.get("evidence") or {}).get("worst") or {} for case in cases),
            key=lambda tensor: tensor["error"] / tensor["limit"] if tensor.get("limit") else 0.0,
        )
        share = f"{worst['error'] / worst['limit']:.0%} ({worst['tensor']}, {worst['dtype']})" if worst else ""
        seconds = sum(case.get("seconds") or 0.0 for case in cases)
        yield f"| {entry['name']} | {done.gpus} | {passed} of {len(cases)} | {share} | {seconds:.1f} |"


def report(runs: list[Run]) -> str:
    """Return the table of all runs as Markdown."""
    lines = ["| model | GPUs | tests passed | worst share of a limit | seconds |", "|---|---:|---|---|---:|"]
    lines += [row for done in runs for row in rows(done)]
    lines += ["", "| GPUs | seconds | exit code |", "|---:|---:|---:|"]
    lines += [f"| {done.gpus} | {done.seconds:.1f} | {done.code} |" for done in runs]
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> list[Run]:
    """Run the group for each wanted number of GPUs, over one store."""
    import torch

    names = options.model or [name for name, model in load_models().items() if GROUP in model.groups]
    counts = options.gpus or sorted({1, torch.cuda.device_count()})
    with tempfile.TemporaryDirectory(prefix="hub-tests-gpu-") as scratch, HubServer() as hub:
        for name in names:
            directory = Path(scratch) / name
            edits = {"head_dim": options.head_dim, "drop": options.drop}
            if options.small or options.whole_blocks:
                serve_small(hub, name, directory, **edits, whole_blocks=options.whole_blocks)
            else:
                serve_full_size(hub, name, directory, device=options.device, keys={}, **edits)
        torch.cuda.empty_cache()
        environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HUB_TESTS_CACHE": str(Path(scratch) / "store")}
        subprocess.run([sys.executable, "-m", "ci", "fetch", *names], env=environ, check=True)
        return [run(names, list(range(count)), environ, options) for count in counts]


def figures(runs: list[Run]) -> list[Figure]:
    """Compare the throughput of all GPUs with one GPU's."""
    one, most = runs[0], runs[-1]
    wanted = EFFICIENCY * most.gpus / one.gpus
    how = f"{most.gpus} GPUs against {one.gpus}"
    return [Figure(f"throughput of @{GROUP}", one.seconds / most.seconds, "≥", wanted, how=how)]


def main(argv: list[str] | None = None) -> int:
    """Measure, and print the tables; exit code 1 when the throughput is missed or a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_release", description=__doc__)
    parser.add_argument("model", nargs="*", help=f"registry names (default: the group {GROUP})")
    parser.add_argument("--subject", default="reference")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries this program out")
    parser.add_argument("--gpus", type=int, action="append", help="number of GPUs of a run; may be repeated")
    parser.add_argument("--head-dim", action="store_true", help="write head_dim into configs that leave it out")
    parser.add_argument("--small", action="store_true", help="the stand-in's small models instead of production widths")
    parser.add_argument("--whole-blocks", action="store_true", help="small models of sizes that are multiples of 128")
    parser.add_argument("--drop", action="append", default=[], help="a key to take out of the production config.json")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options, more = parser.parse_known_args(argv)
    runs = measure(argparse.Namespace(**vars(options), more=more))
    print(report(runs))
    missed = show(figures(runs)) if len(runs) > 1 else 0
    return max(missed, *(done.code for done in runs))


if __name__ == "__main__":
    sys.exit(main())
