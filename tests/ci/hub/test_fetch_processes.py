"""Several processes, and killed ones, on one store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.hub.fetch import fetch
from ci.hub.store import Store
from tests.ci.hub.samples import MODEL, REQUEST, kept, local, make_repository, read_tensors, shapes
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.settings import Settings
    from tests.standin.server import HubServer

SCRIPT = """
import sys
from pathlib import Path
from ci.hub.fetch import FetchRequest, fetch
from ci.records import to_json
from ci.settings import Settings
import ci.hub.transfer
ci.hub.transfer.PIECE = 2000
print(to_json(fetch(FetchRequest("owner/model"), Settings(cache=Path(sys.argv[1]), endpoint=sys.argv[2]))))
"""


def spawn(settings: Settings) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SCRIPT, str(settings.cache), settings.endpoint]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_interrupts
    )


def hears_interrupts() -> None:
    """A background job ignores SIGINT, and so would its children: these must hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(processes: Iterable[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    results = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        results.append(json.loads(out))
    return results


@pytest.fixture
def large(hub: HubServer, tmp_path: Path) -> Path:
    tensors = {name: tuple(16 * n for n in shape) for name, shape in shapes().items()}
    repository = make_repository(tmp_path / "large", tensors=tensors)
    hub.add(MODEL, repository)
    return repository


def test_at_once_all_end_right(hub: HubServer, settings: Settings, large: Path) -> None:
    hub.faults.inject(Fault("slow", amount=300_000, origin="cdn", skip=2, times=6))
    results = finish([spawn(settings) for _ in range(3)])
    assert len({result["manifest_sha256"] for result in results}) == 1
    path = Path(results[0]["path"])
    assert read_tensors(path.glob("*.safetensors")) == kept(large, 2)
    assert [entry.state for entry in Store(settings.cache).verify()] == ["complete"]
    assert len(Store(settings.cache).entries()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_the_next_goes_on(
    hub: HubServer, settings: Settings, large: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.hub.transfer.PIECE", 2000)
    hub.faults.inject(Fault("slow", amount=1000, origin="cdn", skip=22, times=None))
    process = spawn(settings)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        journals = list(settings.cache.glob("partial/*/.parts.jsonl"))
        if journals and journals[0].read_text().count("piece") > 10:
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    (left,) = Store(settings.cache).entries()
    assert (left.state, left.in_use) == ("partial", False)
    hub.faults.clear()
    hub.log.clear()
    checkpoint = fetch(REQUEST, settings)
    assert local(checkpoint) == kept(large, 2)
    pieces = [request for request in hub.requests("cdn") if request.sent <= 2000]
    assert 0 < len(pieces) < checkpoint.bytes_kept / 2000 - 10, "nothing was gone on from"
    assert [entry.state for entry in Store(settings.cache).entries()] == ["complete"]
