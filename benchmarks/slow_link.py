"""A fetch over a slow line against `hf download` and parallel curl, on the stand-in with latency and a rate limit."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import get_session

from benchmarks._client import run_client
from benchmarks._figure import Figure, show
from benchmarks._repositories import MODEL_ID, add_shapes
from tests.standin.server import HubServer
from tests.standin.wire import Link

LINK = Link(latency=0.03, rate=2e6)
"""A round trip of 30 ms and 2 MB/s a connection."""
ROUNDS = 3
LAYERS, TENSORS, WIDTH, ROWS = 4, 11, 1024, 600
CONNECTIONS = (8, 32)
EXPERTS = 11_000


def figures() -> list[Figure]:
    """Measure 55 MB in two shards, and the requests for many small FP8 tensors."""
    with tempfile.TemporaryDirectory() as scratch, HubServer() as hub:
        return [*_measure_link(hub, Path(scratch)), *_measure_fp8(hub, Path(scratch))]


def _measure_link(hub: HubServer, scratch: Path) -> list[Figure]:
    shapes = {f"model.layers.{n}.m{m}.weight": (ROWS, WIDTH) for n in range(LAYERS) for m in range(TENSORS)}
    files = add_shapes(
        hub, scratch / "repository", {name: (shape, "BF16") for name, shape in shapes.items()}, LAYERS, 2
    )
    hub.link = LINK
    seconds: dict[str, list[float]] = {}
    opened = []
    for _ in range(ROUNDS):
        hub.connections, target = 0, scratch / "target"
        seconds.setdefault("fetch", []).append(run_client("fetch", hub.endpoint, MODEL_ID, LAYERS, target).seconds)
        opened.append(hub.connections)
        shutil.rmtree(target)
        for connections in CONNECTIONS if shutil.which("curl") else ():
            seconds.setdefault(f"curl {connections}", []).append(_time_curl(hub, files, connections, target))
            shutil.rmtree(target)
        seconds.setdefault("hf", []).append(run_client("hf", hub.endpoint, MODEL_ID, LAYERS, target).seconds)
        shutil.rmtree(target)
    hub.link = Link()
    taken = {name: statistics.median(values) for name, values in seconds.items()}
    total = sum(path.stat().st_size for path in files)
    how = f"{total / 1e6:.0f} MB at 30 ms and 2 MB/s a connection: " + ", ".join(
        f"{name} {value:.1f} s" for name, value in taken.items()
    )
    requests = f"{statistics.median(opened):.0f} connections"
    measured = [Figure("time on a slow line ÷ hf download's", taken["fetch"] / taken["hf"], "≤", 0.5, how=how)]
    for connections, bound in zip(CONNECTIONS, (1.0, 3.0), strict=True):
        if f"curl {connections}" in taken:
            what = f"time on a slow line ÷ curl's on {connections} connections"
            measured.append(Figure(what, taken["fetch"] / taken[f"curl {connections}"], "≤", bound, how=requests))
    return measured


def _time_curl(hub: HubServer, files: list[Path], connections: int, target: Path) -> float:
    """Return the seconds that curl takes for the same ranges, the signed URLs known beforehand."""
    part = sum(path.stat().st_size for path in files) // connections + 1
    target.mkdir()
    wanted: list[str] = []
    for path in files:
        url = _find_url(hub, path.name)
        for begin in range(0, path.stat().st_size, part):
            end = min(begin + part, path.stat().st_size) - 1
            wanted.append(f'url = "{url}"\nrange = {begin}-{end}\noutput = "{target}/{len(wanted)}"\n')
    (target / "config").write_text("next\n".join(wanted))
    flags = [
        "--parallel",
        "--parallel-immediate",
        "--parallel-max",
        str(connections),
        "--silent",
        "--no-progress-meter",
    ]
    started = time.perf_counter()
    subprocess.run(["curl", *flags, "--config", str(target / "config")], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def _find_url(hub: HubServer, name: str) -> str:
    """Ask the Hub for the signed URL of a file."""
    url = f"{hub.endpoint}/{MODEL_ID}/resolve/main/{quote(name)}"
    return str(get_session().head(url, follow_redirects=False).headers["Location"])


def _measure_fp8(hub: HubServer, scratch: Path) -> list[Figure]:
    """Count the requests for weights that lie beside their scales, unsorted by dtype."""
    tensors = {}
    for expert in range(EXPERTS):
        name = f"model.layers.{expert % 2}.mlp.experts.{expert // 2}.up_proj.weight"
        tensors[name] = ((32, 100), "F8_E4M3")
        tensors[f"{name}_scale_inv"] = ((1, 1), "F32")
    files = add_shapes(hub, scratch / "fp8", tensors, 2, 2)
    hub.log.clear()
    run_client("fetch", hub.endpoint, MODEL_ID, 2, scratch / "target")
    ranges = sum(request.status == 206 for request in hub.requests("cdn"))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    how = f"{len(tensors)} tensors of two dtypes side by side, {megabytes:.0f} MB: {ranges} requests to the CDN"
    return [Figure("requests to the CDN ÷ MB", ranges / megabytes, "≤", 4.5, how=how)]


if __name__ == "__main__":
    sys.exit(show(figures()))
