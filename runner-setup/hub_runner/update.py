"""Downloads GitHub's newest runner, checks its published digest, unpacks it beside the old one, and switches to it.

GitHub accepts a version for 30 days after a newer one is out. Nothing here needs a token.
https://docs.github.com/en/actions/reference/runners/self-hosted-runners
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from ci.doctor.probes import read_runner
from ci.doctor.records import RUNNER_MANIFEST, RunnerInstall
from ci.errors import InfrastructureError
from ci.records import to_json
from ci.units import format_now
from hub_runner.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

RELEASES = "https://api.github.com"
TIMEOUT = 60.0
MAX_ARCHIVE = 1 << 30
CHUNK = 1 << 20


@dataclass(frozen=True)
class Release:
    """GitHub's newest runner for one architecture. `sha256` as published, hexadecimal; `size` in bytes."""

    version: str
    published_at: str
    url: str
    sha256: str
    size: int


def update_runner(runners: Path, arch: str, *, api: str = RELEASES) -> str:
    """Make `current` the newest release; return what was done.

    Raises InfrastructureError, and then nothing has changed.
    """
    release = fetch_newest_release(api, arch)
    runners.mkdir(parents=True, exist_ok=True)
    target = runners / release.version
    installed = read_runner(str(target))
    if not isinstance(installed, RunnerInstall):
        _install_release(release, runners, target)
        installed = RunnerInstall(release.version, release.published_at, release.sha256)
    checked = replace(installed, newest_at=format_now())
    write_atomically(target / RUNNER_MANIFEST, to_json(checked))
    return (
        f"{release.version} is {'still the newest' if _switch_current(runners, target) else 'now the current runner'}"
    )


def fetch_newest_release(api: str, arch: str) -> Release:
    """Ask GitHub for the newest release.

    Raises InfrastructureError for a release without a digest, or with two digests that differ.
    """
    answer = json.loads(_download_bytes(f"{api}/repos/actions/runner/releases/latest", limit=CHUNK * 8))
    version = str(answer["tag_name"]).removeprefix("v")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise InfrastructureError(f"the newest runner has the tag {version!r}, which is not a version; try again later")
    name = f"actions-runner-linux-{arch}-{version}.tar.gz"
    asset = next((each for each in answer["assets"] if each["name"] == name), None)
    if asset is None:
        raise InfrastructureError(f"release {version} of the runner has no {name}; try again later")
    digests = read_published_digests(asset, str(answer.get("body") or ""), arch)
    if len(digests) != 1:
        raise InfrastructureError(f"{name}: {len(digests)} different digests are published, expected one")
    (sha256,) = digests
    return Release(version, str(answer["published_at"]), asset["browser_download_url"], sha256, int(asset["size"]))


def read_published_digests(asset: dict[str, Any], notes: str, arch: str) -> set[str]:
    """Read the archive's sha256 from the asset and from the release notes."""
    of_asset = re.fullmatch(r"sha256:([0-9a-f]{64})", str(asset.get("digest") or ""))
    of_notes = re.search(rf"<!-- BEGIN SHA linux-{arch} -->([0-9a-f]{{64}})<!-- END SHA linux-{arch} -->", notes)
    return {match[1] for match in (of_asset, of_notes) if match}


def _download_bytes(url: str, *, limit: int) -> bytes:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "hub-runner"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            data: bytes = response.read(limit)
            return data
    except urllib.error.HTTPError as refusal:
        with refusal:
            raise InfrastructureError(f"{url}: {refusal.code} {refusal.reason}") from None
    except (OSError, HTTPException, ValueError) as failure:
        raise InfrastructureError(f"{url}: {getattr(failure, 'reason', failure)}") from None


def _install_release(release: Release, runners: Path, target: Path) -> None:
    archive, draft = runners / f".{release.version}.tar.gz", runners / f".{release.version}"
    try:
        _download_archive(release, archive)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        _unpack(archive, draft)
        write_atomically(
            draft / RUNNER_MANIFEST, to_json(RunnerInstall(release.version, release.published_at, release.sha256))
        )
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(draft, ignore_errors=True)


def _download_archive(release: Release, archive: Path) -> None:
    if not 0 < release.size <= MAX_ARCHIVE:
        raise InfrastructureError(f"{release.url}: {release.size} bytes is not a plausible size of a runner")
    data = _download_bytes(release.url, limit=release.size + 1)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != release.sha256:
        raise InfrastructureError(f"{release.url}: sha256 is {sha256}, published is {release.sha256}: not installed")
    archive.write_bytes(data)


def _unpack(archive: Path, draft: Path) -> None:
    command = ["tar", "-xzf", str(archive), "-C", str(draft), "--no-same-owner", "--no-same-permissions"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as failure:
        raise InfrastructureError(f"{archive}: {getattr(failure, 'stderr', None) or failure}") from None
    for needed in ("run.sh", "bin/Runner.Listener"):
        if not (draft / needed).is_file():
            raise InfrastructureError(f"{archive} has no {needed}: it is not a runner")


def _switch_current(runners: Path, target: Path) -> bool:
    """Point `current` at `target` in one rename; return True where it did already."""
    current, draft = runners / "current", runners / f".current.{os.getpid()}"
    if current.is_symlink() and os.readlink(current) == target.name:  # noqa: PTH115  a name, not a path
        return True
    draft.unlink(missing_ok=True)
    draft.symlink_to(target.name)
    draft.replace(current)
    return False
