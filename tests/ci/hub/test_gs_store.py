"""A fleet on Google Cloud Storage, against an emulator of its API on loopback, through fsspec's own gcsfs.

    HUB_TESTS_GCS_PYTHON=ENV/bin/python pytest -m long tests/ci/hub/test_gs_store.py

ENV has hub-tests with the extra `gs`, and the package gcp-storage-emulator.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from ci.hub.manifest import MANIFEST
from tests.ci.hub.samples import MODEL
from tests.ci.hub.test_s3_store import find_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

pytestmark = pytest.mark.long
PYTHON = os.environ.get("HUB_TESTS_GCS_PYTHON")
BUCKET = "fleet"
PLACE = f"gs://{BUCKET}/checkpoints of ci"


@pytest.fixture
def machine(tmp_path: Path, settings: Settings) -> Iterator[dict[str, str]]:
    """Start the emulator, and return the environment of a machine that may use it."""
    if not PYTHON:
        pytest.skip("needs a GCS server: set HUB_TESTS_GCS_PYTHON to an interpreter with gcsfs and its emulator")
    endpoint = f"http://127.0.0.1:{find_free_port()}"
    words = ["start", "--host=127.0.0.1", f"--port={endpoint.rpartition(':')[2]}", "--in-memory"]
    process = subprocess.Popen(
        [PYTHON, "-m", "gcp_storage_emulator", *words, f"--default-bucket={BUCKET}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HUB_TESTS_", "HF_", "GOOGLE_"))}
    environ = {**keep, "HOME": str(tmp_path), "HF_ENDPOINT": settings.endpoint, "STORAGE_EMULATOR_HOST": endpoint}
    # The emulator knows neither identities nor gRPC, by which gcsfs asks for a bucket's type.
    environ |= {"FSSPEC_GS_TOKEN": "anon", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{endpoint}/storage/v1/b?project=p", timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    yield environ
    process.kill()
    process.wait()


def hub_tests(environ: dict[str, str], store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PYTHON), "-m", "ci", *words, "--cache", str(store), "--store-url", PLACE],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    return dict(answer)


def list_objects(environ: dict[str, str]) -> list[str]:
    with urllib.request.urlopen(f"{environ['STORAGE_EMULATOR_HOST']}/storage/v1/b/{BUCKET}/o", timeout=20) as answer:
        return [one["name"] for one in json.load(answer).get("items", [])]


def test_a_fleet_on_gcs(machine: dict[str, str], commit: str, tmp_path: Path, hub: HubServer) -> None:
    words = ("fetch", MODEL, "--revision", commit, "--json")
    first = read(hub_tests(machine, tmp_path / "a", *words))
    assert any(name.endswith(MANIFEST) for name in list_objects(machine))
    hub.log.clear()
    second = read(hub_tests({**machine, "HF_HUB_OFFLINE": "1"}, tmp_path / "b", *words))
    assert (first["cache"], second["cache"], second["bytes_fetched"], len(hub.log)) == ("miss", "hit", 0, 0)
    assert first["manifest_sha256"] == second["manifest_sha256"]
    assert read(hub_tests(machine, tmp_path / "a", "cache", "ls", "--json"))["state"] == "complete"
    kept = read(hub_tests(machine, tmp_path / "a", "cache", "prune", "--max-size", "0", "--json"))
    assert kept["state"] == "complete", "a run may use it"


def test_a_place_that_does_not_answer_is_one_line(machine: dict[str, str], commit: str, tmp_path: Path) -> None:
    nowhere = {**machine, "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}
    done = hub_tests(nowhere, tmp_path / "a", "fetch", MODEL, "--revision", commit)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "check the address and this machine's identity there" in done.stderr
