"""A fleet on S3, against a real server on loopback: fetch on one machine, read on others, killed and attacked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ci.hub.manifest import MANIFEST
from tests.ci.hub.samples import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("s3")]
BUCKET = "fleet"
PLACE = f"s3://{BUCKET}/checkpoints of ci"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-the-machine"}
BOTO = """
import json, sys, boto3
client = boto3.client("s3")
what, *words = sys.argv[1:]
if what == "create":
    client.create_bucket(Bucket=words[0])
elif what == "list":
    listed = client.list_objects_v2(Bucket=words[0]).get("Contents", [])
    print(json.dumps({one["Key"]: one["Size"] for one in listed}))
elif what == "put":
    client.put_object(Bucket=words[0], Key=words[1], Body=words[2].encode())
elif what == "get":
    sys.stdout.write(client.get_object(Bucket=words[0], Key=words[1])["Body"].read().decode())
"""


@dataclass(frozen=True)
class S3:
    """The server, and the environment of a machine that may use it."""

    environ: dict[str, str]
    server: subprocess.Popen[bytes]

    def call(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", BOTO, *words], env=self.environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    def list(self) -> dict[str, int]:
        listed: dict[str, int] = json.loads(self.call("list", BUCKET))
        return listed


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    port, home = find_free_port(), tmp_path_factory.mktemp("s3")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HUB_TESTS_", "HF_"))}
    endpoint = f"http://127.0.0.1:{port}"
    environ = {**keep, **CREDENTIALS, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "HOME": str(home)}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=environ,
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    yield S3(environ, process)
    process.kill()
    process.wait()


@pytest.fixture
def s3(server: S3) -> S3:
    endpoint = server.environ["AWS_ENDPOINT_URL"]
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"), timeout=20).close()
    server.call("create", BUCKET)
    return server


def hub_tests(s3: S3, settings: Settings, store: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ci", *words, "--cache", str(store), "--store-url", PLACE],
        env={**s3.environ, "HF_ENDPOINT": settings.endpoint, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    return dict(answer)


def test_one_machine_fetches_and_another_reads(
    s3: S3, settings: Settings, commit: str, tmp_path: Path, hub: HubServer
) -> None:
    words = ("fetch", MODEL, "--revision", commit, "--json")
    first = read(hub_tests(s3, settings, tmp_path / "a", *words))
    names = sorted(name.rpartition("/")[2] for name in s3.list())
    assert MANIFEST in names
    assert len(names) > 2
    hub.log.clear()
    second = read(hub_tests(s3, settings, tmp_path / "b", *words, HF_HUB_OFFLINE="1"))
    assert (first["cache"], second["cache"], second["bytes_fetched"], len(hub.log)) == ("miss", "hit", 0, 0)
    assert first["manifest_sha256"] == second["manifest_sha256"]
    verified = subprocess.run(
        [sys.executable, "-m", "ci", "cache", "verify", "--cache", str(tmp_path / "b")], env=s3.environ, check=False
    )
    assert verified.returncode == 0


def test_an_upload_that_is_killed_is_no_hit(s3: S3, settings: Settings, commit: str, tmp_path: Path) -> None:
    """In the middle of a file: before the manifest nothing is complete, and the next fetch ends it."""
    words = ("fetch", MODEL, "--revision", commit, "--json")
    script = "import os, s3fs, sys; from ci.__main__ import main\n"
    script += "s3fs.S3FileSystem.put_file = lambda *_, **__: os.kill(os.getpid(), 9)\nsys.exit(main(sys.argv[1:]))"
    store = ("--cache", str(tmp_path / "a"), "--store-url", PLACE)
    environ = {**s3.environ, "HF_ENDPOINT": settings.endpoint}
    killed = subprocess.run([sys.executable, "-c", script, *words, *store], env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    missing = hub_tests(s3, settings, tmp_path / "b", *words, HF_HUB_OFFLINE="1")
    assert missing.returncode == 3
    assert "HF_HUB_OFFLINE is set" in missing.stderr
    assert read(hub_tests(s3, settings, tmp_path / "a", *words))["cache"] == "hit"
    assert read(hub_tests(s3, settings, tmp_path / "b", *words, HF_HUB_OFFLINE="1"))["cache"] == "hit"


def test_hostile_and_damaged_objects(s3: S3, settings: Settings, commit: str, tmp_path: Path) -> None:
    words = ("fetch", MODEL, "--revision", commit, "--json")
    read(hub_tests(s3, settings, tmp_path / "a", *words))
    folder = next(name for name in s3.list() if name.endswith(MANIFEST)).rpartition("/")[0]
    s3.call("put", BUCKET, f"{folder}/../../../../../tmp/evil", "x")
    refused = hub_tests(s3, settings, tmp_path / "b", *words, HF_HUB_OFFLINE="1")
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert "lists ../../../../../tmp/evil, which no checkpoint has; remove it" in refused.stderr


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be read: "),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "cannot be read: ",
        ),
    ],
    ids=["no server", "no identity"],
)
def test_no_way_in_is_one_line(
    s3: S3, settings: Settings, commit: str, tmp_path: Path, environ: dict[str, str], says: str
) -> None:
    done = hub_tests(s3, settings, tmp_path / "a", "fetch", MODEL, "--revision", commit, **environ)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert says in done.stderr
    assert "check the address and this machine's identity there" in done.stderr
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in done.stderr


def test_old_checkpoints_are_pruned_and_other_objects_stay(
    s3: S3, settings: Settings, commit: str, tmp_path: Path
) -> None:
    read(hub_tests(s3, settings, tmp_path / "a", "fetch", MODEL, "--revision", commit, "--json"))
    folder = next(name for name in s3.list() if name.endswith(MANIFEST)).rpartition("/")[0]
    mine = f"{folder.rpartition('/')[0]}/notes/mine.txt"
    s3.call("put", BUCKET, mine, "x")
    words = ("cache", "prune", "--max-size", "0", "--json")
    assert read(hub_tests(s3, settings, tmp_path / "a", *words))["state"] == "complete", "a run may use it"
    later = "import sys, ci.hub.remote_prune as prune; from ci.__main__ import main\n"
    later += "prune.RUN_TIMEOUT = -1.0\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", later, *words, "--store-url", PLACE],
        env=s3.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert read(done)["state"] == "removed"
    assert list(s3.list()) == [mine]
