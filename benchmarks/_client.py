"""One download in a process of its own, to measure its time and memory alone. Started by `run_client`."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Callable

Client = Literal["fetch", "hf"]


@dataclass(frozen=True)
class Cost:
    """What a download cost: seconds of the call itself, peak resident bytes before it (imports done) and after it.

    `cpu` are its processor seconds.
    """

    seconds: float
    cpu: float
    peak_before: int
    peak_after: int

    @property
    def memory(self) -> int:
        """Peak bytes over the bare import."""
        return self.peak_after - self.peak_before


def run_client(client: Client, endpoint: str, model_id: str, layers: int, target: Path) -> Cost:
    """Download `model_id` into `target` with `hub-tests`' fetch or with huggingface_hub (what `hf download` calls)."""
    words = [client, endpoint, model_id, str(layers), str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._client", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return Cost(**json.loads(done.stdout))


def peak() -> int:
    """Return the peak resident bytes of this process.

    Read from VmHWM where there is one: on Linux ru_maxrss starts at the parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def prepare(client: Client, endpoint: str, model_id: str, layers: int, target: Path) -> Callable[[], object]:
    """Import everything and return the download as a function."""
    if client == "fetch":
        import ci.hub.builder  # the fetch imports these when it needs them
        import ci.hub.remote  # noqa: F401
        from ci.hub.fetch import FetchRequest, fetch
        from ci.settings import Settings

        return partial(fetch, FetchRequest(model_id, layers), Settings(cache=target, endpoint=endpoint))
    from huggingface_hub import snapshot_download

    return partial(snapshot_download, model_id, endpoint=endpoint, token=False, local_dir=target)


def main(client: str, endpoint: str, model_id: str, layers: str, target: str) -> None:
    """Download once and print the cost."""
    download = prepare(cast("Client", client), endpoint, model_id, int(layers), Path(target))
    before, started, busy = peak(), time.perf_counter(), time.process_time()
    download()
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_before": before, "peak_after": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
