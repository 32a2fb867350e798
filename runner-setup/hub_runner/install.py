"""Writes the rendered files to a host and starts its units; with another root, it only writes to that directory.

Each step is printed before it is done, and `--dry-run` only prints. A second installation changes nothing.
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
from urllib.parse import urlsplit

from ci.certificates import read_certificates
from ci.environments.image import PROGRAMS
from ci.errors import InfrastructureError, RequestError
from hub_runner.files import write_atomically
from hub_runner.layout import KEY
from hub_runner.networks import CLOSED4, CLOSED6
from hub_runner.render import render_host_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hub_runner.config import Config
    from hub_runner.layout import Layout
    from hub_runner.render import Rendered

MINIMUM_PYTHON = (3, 11)
TOOLS = (
    "systemctl",
    "nft",
    "mkfs.ext4",
    "mount",
    "umount",
    "tar",
    "openssl",
    "find",
    "cp",
    "bwrap",
    "git",
    "gcc",
    "g++",
)
"""Debian and Ubuntu packages: systemd nftables e2fsprogs mount tar openssl findutils coreutils bubblewrap,
and git gcc g++, which build a subject."""

ENABLED = (
    "hub-runner-firewall.service",
    "hub-runner-apparmor.service",
    "hub-runner-registrar.socket",
    "hub-runner-update.timer",
    "hub-runner-janitor.timer",
    "hub-runner-environments.timer",
    "hub-runner-supervisor.service",
)


@dataclass(frozen=True)
class Drift:
    """An installed file that is not what the config says: missing, changed, or left over from an earlier config."""

    path: str
    what: str


def find_drift(config: Config, layout: Layout) -> tuple[Drift, ...]:
    """Compare the installed files with the rendered ones."""
    wanted = render_host_files(config)
    changed = (Drift(path, what) for path, file in wanted.items() if (what := _compare(layout.root / path, file)))
    return (*changed, *(Drift(path, "left over") for path in leftover_units(wanted, layout)))


def _compare(path: Path, file: Rendered) -> str:
    try:
        if path.read_text(encoding="utf-8") != file.text:
            return "changed"
        return "" if path.stat().st_mode & 0o777 == file.mode else "mode"
    except FileNotFoundError:
        return "missing"
    except (OSError, UnicodeDecodeError) as failure:
        return str(failure)


def leftover_units(wanted: Mapping[str, Rendered], layout: Layout) -> tuple[str, ...]:
    """List units of slots that the config no longer has, and units of earlier versions."""
    units = layout.root / "etc/systemd/system"
    installed = sorted(str(path.relative_to(layout.root)) for path in units.glob("hub-runner-*.*") if path.is_file())
    return tuple(path for path in installed if path not in wanted)


def list_retired_units(config: Config, layout: Layout) -> tuple[str, ...]:
    """List left-over units to stop, without those of slots, where a job may run."""
    names = (path.rpartition("/")[2] for path in leftover_units(render_host_files(config), layout))
    return tuple(name for name in names if not name.startswith("hub-runner-slot-") and "@" not in name)


def find_install_problems(config: Config, *, resolv: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Return one line for each reason why this host cannot be installed."""
    tools = (*TOOLS, *(PROGRAMS if config.environments.images else ()))
    missing = [tool for tool in tools if not (shutil.which(tool) or Path("/usr/sbin", tool).exists())]
    return tuple(
        problem
        for problem in (
            "" if os.geteuid() == 0 else "this needs root: run sudo hub-runner install",
            "" if sys.version_info >= MINIMUM_PYTHON else "this needs Python 3.11 or newer",
            "" if Path("/run/systemd/system").is_dir() else "systemd is not the init system of this machine",
            f"missing commands: {', '.join(missing)}; run install.sh, which installs their packages" if missing else "",
            "" if KEY.is_file() else f"{KEY} is missing: put the GitHub App's private key there, owner root, mode 0400",
            *_check_resolvers(config, resolv),
            _check_proxy(config),
            _check_certificates(config),
        )
        if problem
    )


def _check_resolvers(config: Config, resolv: Path) -> Iterator[str]:
    """Report DNS resolvers in a private network, which the firewall closes to jobs."""
    closed = [ipaddress.ip_network(each) for each in (*CLOSED4, *CLOSED6)]
    open_ = [ipaddress.ip_network(allow.address) for allow in config.egress.allow if allow.port == 53]
    lines = resolv.read_text().splitlines() if resolv.exists() else []
    for name in (line.split()[1] for line in lines if line.startswith("nameserver ") and len(line.split()) > 1):
        address = ipaddress.ip_address(name.partition("%")[0])
        blocked = any(address in network for network in closed) or config.egress.mode == "listed"
        if not address.is_loopback and blocked and not any(address in network for network in open_):
            yield f'jobs could not reach the resolver {name}: add an [[egress.allow]] with port 53, protocol "udp"'


def _check_proxy(config: Config) -> str:
    """Report a proxy in a private network, which the firewall closes to jobs."""
    parts = urlsplit(config.proxy.url)
    try:
        address = ipaddress.ip_network(parts.hostname or "")
    except ValueError:
        return ""  # a name: what it means, only the job's resolver knows
    closed = config.egress.mode == "listed" or any(
        address.subnet_of(network)  # type: ignore[arg-type]
        for network in map(ipaddress.ip_network, (*CLOSED4, *CLOSED6))
        if network.version == address.version
    )
    ports = {(ipaddress.ip_network(allow.address), allow.port) for allow in config.egress.allow}
    if not closed or (address, parts.port or 80) in ports or address.is_loopback:
        return ""
    return f"jobs could not reach the proxy {parts.hostname}: add an [[egress.allow]] with port {parts.port or 80}"


def _check_certificates(config: Config) -> str:
    """Report a file of certificates that cannot be used, or that jobs may not read."""
    file = Path(config.proxy.certificates)
    if not config.proxy.certificates:
        return ""
    try:
        read_certificates(file)
    except RequestError as problem:
        return f"proxy.certificates: {problem}"
    needed = {file: 0o004, **dict.fromkeys(file.parents, 0o001)}
    closed = next((path for path, mode in needed.items() if not path.stat().st_mode & mode), None)
    return f"proxy.certificates: jobs may not read {closed}: chmod o+rX {closed}" if closed else ""


def plan_steps(config: Config, source: Path, layout: Layout) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what an installation does, in order: a sentence, and the command if there is one."""
    for path, file in render_host_files(config).items():
        yield f"write {layout.root / path} ({file.mode:04o})", ()
    if source.resolve() != layout.config.resolve():
        yield f"copy {source} to {layout.config}", ()
    for path in leftover_units(render_host_files(config), layout):
        yield f"remove {layout.root / path}", ()
    yield from list_commands(layout, list_retired_units(config, layout))


def list_commands(layout: Layout, retired: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the commands to run once the files are there.

    Below another root, only those that work on a directory.
    """
    root = () if layout.root == Path("/") else (f"--root={layout.root}",)
    yield "make the users", ("systemd-sysusers", *root, "hub-runner.conf")
    yield "make the directories", ("systemd-tmpfiles", *root, "--create", "hub-runner.conf")
    if retired and not root:
        yield "stop units of an earlier version", ("systemctl", "stop", *retired)
    yield "enable the units", ("systemctl", *root, "enable", *ENABLED)
    if root:
        return
    yield "let systemd read the units", ("systemctl", "daemon-reload")
    # Not a restart: the slots require this unit, so a restart would end their jobs.
    yield "load the firewall", ("systemctl", "reload-or-restart", "hub-runner-firewall.service")
    yield "load the AppArmor profile", ("systemctl", "reload-or-restart", "hub-runner-apparmor.service")
    yield "open the registrar's socket", ("systemctl", "restart", "hub-runner-registrar.socket")
    yield "fetch GitHub's runner", ("systemctl", "start", "hub-runner-update.service")
    timers = ("hub-runner-update.timer", "hub-runner-janitor.timer", "hub-runner-environments.timer")
    yield "start the timers", ("systemctl", "start", *timers)
    yield "start the supervisor; running jobs go on", ("systemctl", "restart", "hub-runner-supervisor.service")


def write_files(config: Config, source: Path, layout: Layout) -> None:
    """Write every file, each one completely or not at all, and delete left-over units."""
    text = source.read_text(encoding="utf-8")
    for path, file in render_host_files(config).items():
        _write_file(layout.root / path, file.text, file.mode)
    _write_file(layout.config, text, 0o644)
    for path in leftover_units(render_host_files(config), layout):
        (layout.root / path).unlink()
        for enabled in (layout.root / path).parent.glob("*.wants"):
            (enabled / Path(path).name).unlink(missing_ok=True)


def _write_file(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, mode)
    except OSError as failure:
        raise InfrastructureError(f"{path}: {failure.strerror}") from None


def run_command(command: tuple[str, ...]) -> None:
    """Run one command of the installation. Raises InfrastructureError with its error output."""
    tool = shutil.which(command[0]) or f"/usr/bin/{command[0]}"
    try:
        subprocess.run([tool, *command[1:]], check=True, capture_output=True, text=True, timeout=1900)  # noqa: S603
    except subprocess.CalledProcessError as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure.stderr.strip()[:500]}") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure}") from None


def raise_problems(problems: tuple[str, ...]) -> None:
    """Raise RequestError with all problems, if there are any."""
    if problems:
        raise RequestError("; ".join(problems))
