"""Puts the rendered files on a host and sets them to work; with another root directory, into that directory.

Every step is named before it is done, and `--dry-run` only names them. Doing it twice is doing it once.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError
from hub_runner.layout import KEY
from hub_runner.networks import CLOSED4, CLOSED6
from hub_runner.render import host_files
from hub_runner.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hub_runner.config import Config
    from hub_runner.layout import Layout
    from hub_runner.render import Rendered

MINIMUM_PYTHON = (3, 11)
TOOLS = ("systemctl", "nft", "mkfs.ext4", "mount", "umount", "tar", "openssl", "find", "cp")
"""Debian and Ubuntu packages: systemd nftables e2fsprogs mount tar openssl findutils coreutils."""

ENABLED = (
    "hub-runner-firewall.service",
    "hub-runner-mint.socket",
    "hub-runner-update.timer",
    "hub-runner-janitor.timer",
    "hub-runner-supervisor.service",
)


@dataclass(frozen=True)
class Drift:
    """An installed file that is not what the config says: missing, changed, or left over from an earlier config."""

    path: str
    what: str


def drift(config: Config, layout: Layout) -> tuple[Drift, ...]:
    """Hold what is installed against what would be rendered."""
    wanted = host_files(config)
    found = (Drift(path, what) for path, file in wanted.items() if (what := _differs(layout.root / path, file)))
    return (*found, *(Drift(path, "left over") for path in leftover_units(wanted, layout)))


def _differs(path: Path, file: Rendered) -> str:
    try:
        if path.read_text(encoding="utf-8") != file.text:
            return "changed"
        return "" if path.stat().st_mode & 0o777 == file.mode else "mode"
    except FileNotFoundError:
        return "missing"
    except (OSError, UnicodeDecodeError) as failure:
        return str(failure)


def leftover_units(wanted: Mapping[str, Rendered], layout: Layout) -> tuple[str, ...]:
    """Units of slots that the config no longer has."""
    units = layout.root / "etc/systemd/system"
    there = sorted(str(path.relative_to(layout.root)) for path in units.glob("hub-runner-slot-*.service"))
    return tuple(path for path in there if path not in wanted)


def preflight(config: Config, *, resolv: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """What stands in the way on this host, each in a line."""
    missing = [tool for tool in TOOLS if not (shutil.which(tool) or Path("/usr/sbin", tool).exists())]
    return tuple(
        problem
        for problem in (
            "" if os.geteuid() == 0 else "this needs root: sudo hub-runner install",
            "" if sys.version_info >= MINIMUM_PYTHON else "this needs Python 3.11 or newer",
            "" if Path("/run/systemd/system").is_dir() else "systemd does not run this machine",
            f"missing: {', '.join(missing)}" if missing else "",
            "" if KEY.is_file() else f"{KEY} is not there: put the GitHub App's private key into it, root's, mode 0400",
            *_resolvers(config, resolv),
        )
        if problem
    )


def _resolvers(config: Config, resolv: Path) -> Iterator[str]:
    """A resolver in a private network is behind the firewall: jobs would know no names."""
    closed = [ipaddress.ip_network(each) for each in (*CLOSED4, *CLOSED6)]
    open_ = [ipaddress.ip_network(allow.address) for allow in config.egress.allow if allow.port == 53]
    lines = resolv.read_text().splitlines() if resolv.exists() else []
    for name in (line.split()[1] for line in lines if line.startswith("nameserver ") and len(line.split()) > 1):
        address = ipaddress.ip_address(name.partition("%")[0])
        shut = any(address in network for network in closed) or config.egress.mode == "listed"
        if not address.is_loopback and shut and not any(address in network for network in open_):
            yield f'jobs could not ask the resolver {name}: add an [[egress.allow]] with port 53, protocol "udp"'


def steps(config: Config, source: Path, layout: Layout) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What installing does, in order: a sentence, and the command where it is one (files are written by `write`)."""
    for path, file in host_files(config).items():
        yield f"write {layout.root / path} ({file.mode:04o})", ()
    if source.resolve() != layout.config.resolve():
        yield f"copy {source} to {layout.config}", ()
    for path in leftover_units(host_files(config), layout):
        yield f"remove {layout.root / path}", ()
    yield from commands(layout)


def commands(layout: Layout) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is run after the files are there. Below another root, only what works on a directory."""
    root = () if layout.root == Path("/") else (f"--root={layout.root}",)
    yield "make the users", ("systemd-sysusers", *root, "hub-runner.conf")
    yield "make the directories", ("systemd-tmpfiles", *root, "--create", "hub-runner.conf")
    yield "enable the units", ("systemctl", *root, "enable", *ENABLED)
    if root:
        return
    yield "let systemd read them", ("systemctl", "daemon-reload")
    # Not a restart: that would restart the slots, which require it, and the jobs in them.
    yield "load the firewall", ("systemctl", "reload-or-restart", "hub-runner-firewall.service")
    yield "open the minting unit's socket", ("systemctl", "restart", "hub-runner-mint.socket")
    yield "fetch GitHub's runner", ("systemctl", "start", "hub-runner-update.service")
    yield "start the timers", ("systemctl", "start", "hub-runner-update.timer", "hub-runner-janitor.timer")
    yield "start the supervisor; running jobs go on", ("systemctl", "restart", "hub-runner-supervisor.service")


def write(config: Config, source: Path, layout: Layout) -> None:
    """Write every file; a file is whole or as it was before."""
    text = source.read_text(encoding="utf-8")
    for path, file in host_files(config).items():
        _put(layout.root / path, file.text, file.mode)
    _put(layout.config, text, 0o644)
    for path in leftover_units(host_files(config), layout):
        (layout.root / path).unlink()


def _put(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, mode)
    except OSError as failure:
        raise InfrastructureError(f"{path}: {failure.strerror}") from None


def execute(command: tuple[str, ...]) -> None:
    """Run one command of the installation. Raises InfrastructureError with its last words."""
    tool = shutil.which(command[0]) or f"/usr/bin/{command[0]}"
    try:
        subprocess.run([tool, *command[1:]], check=True, capture_output=True, text=True, timeout=1900)  # noqa: S603
    except subprocess.CalledProcessError as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure.stderr.strip()[:500]}") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure}") from None


def require(problems: tuple[str, ...]) -> None:
    """Raises RequestError with all of them, if any."""
    if problems:
        raise RequestError("; ".join(problems))
