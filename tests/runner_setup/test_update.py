"""The runner's archive: held against its digest, unpacked beside the old one, switched in one step, or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from ci.doctor.probes import read_runner
from ci.doctor.records import RunnerInstall
from ci.errors import InfrastructureError
from hub_runner.update import update_runner

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runner_setup.fake_runners_api import FakeGitHub


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size, entry.uid = 0o755, 2, 1001
            tar.addfile(entry, io.BytesIO(b"#!"))
    return buffer.getvalue()


RUNNER = archive("./run.sh", "./bin/Runner.Listener")


def publish(github: FakeGitHub, version: str, data: bytes = RUNNER, **asset: Any) -> None:
    name = f"actions-runner-linux-x64-{version}.tar.gz"
    digest = hashlib.sha256(data).hexdigest()
    github.files[f"/download/{name}"] = data
    github.releases = {
        "tag_name": f"v{version}",
        "published_at": "2026-11-10T12:00:00Z",
        "body": f"<!-- BEGIN SHA linux-x64 -->{digest}<!-- END SHA linux-x64 -->",
        "assets": [
            {
                "name": name,
                "size": len(data),
                "browser_download_url": f"{github.url}/download/{name}",
                "digest": f"sha256:{digest}",
                **asset,
            }
        ],
    }


@pytest.fixture
def runners(tmp_path: Path) -> Path:
    return tmp_path / "runners"


def current(runners: Path) -> RunnerInstall:
    known = read_runner(str(runners / "current"))
    assert isinstance(known, RunnerInstall)
    return known


def test_the_newest_runner_becomes_the_current_one(github: FakeGitHub, runners: Path) -> None:
    publish(github, "2.335.0")
    assert "now the current runner" in update_runner(runners, "x64", api=github.url)
    publish(github, "2.336.0")
    update_runner(runners, "x64", api=github.url)
    assert (runners / "current").readlink().name == "2.336.0"
    known = current(runners)
    assert (known.version, known.published_at) == ("2.336.0", "2026-11-10T12:00:00Z")
    assert known.sha256 == hashlib.sha256(RUNNER).hexdigest()
    assert (runners / "current/bin/Runner.Listener").stat().st_mode & 0o022 == 0
    assert sorted(path.name for path in runners.iterdir()) == ["2.335.0", "2.336.0", "current"]


def test_looking_again_moves_nothing_and_notes_that_it_is_the_newest(github: FakeGitHub, runners: Path) -> None:
    publish(github, "2.336.0")
    update_runner(runners, "x64", api=github.url)
    first = current(runners)
    github.files.clear()
    assert "still the newest" in update_runner(runners, "x64", api=github.url)
    assert current(runners).newest_at >= first.newest_at > ""


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "tampered": ({"digest": "sha256:" + "0" * 64}, "2 different digests"),
    "no asset digest agrees with none": ({"name": "other.tar.gz"}, "has no actions-runner"),
    "absurd size": ({"size": 1 << 40}, "not a plausible size"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_release_that_is_not_right_changes_nothing(github: FakeGitHub, runners: Path, fault: str) -> None:
    publish(github, "2.335.0")
    update_runner(runners, "x64", api=github.url)
    asset, told = BAD[fault]
    publish(github, "2.336.0", **asset)
    with pytest.raises(InfrastructureError, match=told):
        update_runner(runners, "x64", api=github.url)
    assert current(runners).version == "2.335.0"
    assert sorted(path.name for path in runners.iterdir()) == ["2.335.0", "current"]


SERVED = {"tampered": RUNNER[:-1] + b"x", "cut": RUNNER[:100], "longer": RUNNER + b"x", "empty": b""}


@pytest.mark.parametrize("served", SERVED.values(), ids=SERVED)
def test_an_archive_that_is_not_what_was_published_is_not_unpacked(
    github: FakeGitHub, runners: Path, served: bytes
) -> None:
    publish(github, "2.336.0")
    github.files["/download/actions-runner-linux-x64-2.336.0.tar.gz"] = served
    with pytest.raises(InfrastructureError, match="sha256 is"):
        update_runner(runners, "x64", api=github.url)
    assert list(runners.iterdir()) == []


def test_without_any_published_digest_nothing_is_installed(github: FakeGitHub, runners: Path) -> None:
    publish(github, "2.336.0", digest=None)
    github.releases["body"] = ""
    with pytest.raises(InfrastructureError, match="0 different digests"):
        update_runner(runners, "x64", api=github.url)


@pytest.mark.parametrize("data", [archive("./README"), b"not a tar"], ids=["another archive", "no archive"])
def test_what_is_no_runner_is_not_installed(github: FakeGitHub, runners: Path, data: bytes) -> None:
    publish(github, "2.336.0", data)
    with pytest.raises(InfrastructureError):
        update_runner(runners, "x64", api=github.url)
    assert list(runners.iterdir()) == []


def test_a_version_that_is_a_path_is_refused(github: FakeGitHub, runners: Path) -> None:
    publish(github, "2.336.0")
    github.releases["tag_name"] = "v../../etc"
    with pytest.raises(InfrastructureError, match="not a version"):
        update_runner(runners, "x64", api=github.url)


def test_github_away_is_told_in_a_line(github: FakeGitHub, runners: Path) -> None:
    with pytest.raises(InfrastructureError, match="404"):
        update_runner(runners, "x64", api=github.url)
    github.down = True
    with pytest.raises(InfrastructureError):
        update_runner(runners, "x64", api=github.url)
