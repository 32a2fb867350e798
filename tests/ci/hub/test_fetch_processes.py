"""Several processes, and killed ones, on one store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.hub.fetch import fetch
from ci.hub.store import Store
from tests.ci.hub.samples import (
    MODEL,
    REQUEST,
    first_layers,
    make_repository,
    model_shapes,
    read_tensors,
    stored_tensors,
)
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.settings import Settings
    from tests.standin.server import HubServer

SCRIPT = """
import sys
import ci.hub.transfer
from ci.__main__ import main
ci.hub.transfer.PIECE_SIZE = ci.hub.transfer.LARGEST_REQUEST = 2000
sys.exit(main(["fetch", "owner/model", "--cache", sys.argv[1], "--json"]))
"""


def spawn(settings: Settings) -> subprocess.Popen[str]:
    """`hub-tests fetch`, in small pieces so that it can be stopped between them."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(settings.cache)],
        env={**os.environ, "HF_ENDPOINT": settings.endpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_sigint,
    )


def restore_sigint() -> None:
    """Restore SIGINT, which a background job and so its children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(processes: Iterable[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    results = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        results += json.loads(out)
    return results


@pytest.fixture
def large(hub: HubServer, tmp_path: Path) -> Path:
    tensors = {name: tuple(16 * n for n in shape) for name, shape in model_shapes().items()}
    repository = make_repository(tmp_path / "large", tensors=tensors)
    hub.add(MODEL, repository)
    return repository


def test_at_once_all_end_right(hub: HubServer, settings: Settings, large: Path) -> None:
    hub.faults.inject(Fault("slow", amount=300_000, origin="cdn", skip=2, times=6))
    results = finish([spawn(settings) for _ in range(3)])
    assert len({result["manifest_sha256"] for result in results}) == 1
    path = Path(results[0]["path"])
    assert read_tensors(path.glob("*.safetensors")) == first_layers(large, 2)
    assert [entry.state for entry in Store(settings.cache).verify()] == ["complete"]
    assert len(Store(settings.cache).list_entries()) == 1


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGKILL, -9, ""), (signal.SIGINT, 130, "hub-tests: interrupted; what was fetched is kept")],
)
def test_killed_in_the_middle_the_next_goes_on(
    hub: HubServer,
    settings: Settings,
    large: Path,
    number: signal.Signals,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ci.hub.transfer.PIECE_SIZE", 2000)
    monkeypatch.setattr("ci.hub.transfer.LARGEST_REQUEST", 2000)
    hub.faults.inject(Fault("slow", amount=1000, origin="cdn", skip=22, times=None))
    process = spawn(settings)
    deadline = time.monotonic() + 120
    while sum(path.read_text().count("piece") for path in settings.cache.glob("partial/*/.parts.jsonl")) <= 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (code, "")
    assert err.startswith(says)
    assert err.count("\n") == bool(says), "one line"
    (left,) = Store(settings.cache).list_entries()
    assert (left.state, left.in_use) == ("partial", False)
    hub.faults.clear()
    hub.log.clear()
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == first_layers(large, 2)
    pieces = [request for request in hub.requests("cdn") if request.sent <= 2000]
    assert 0 < len(pieces) < checkpoint.bytes_kept / 2000 - 10, "nothing was gone on from"
    assert [entry.state for entry in Store(settings.cache).list_entries()] == ["complete"]
