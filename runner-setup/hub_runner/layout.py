"""Where everything lies on the host. `root` is / on a host and any directory in a test or a dry run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KEY = Path("/etc/hub-runner/app-key.pem")


@dataclass(frozen=True)
class Layout:
    """The paths, below `root`."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """The one TOML file."""
        return self.root / "etc/hub-runner/hub-runner.toml"

    @property
    def key(self) -> Path:
        """The GitHub App's private key: root's, 0400."""
        return self.root / KEY.relative_to("/")

    @property
    def program(self) -> Path:
        """The virtual environment and the scripts that units call."""
        return self.root / "opt/hub-runner"

    @property
    def data(self) -> Path:
        """What survives a reboot: state, slot disks, unpacked runners."""
        return self.root / "var/lib/hub-runner"

    @property
    def state(self) -> Path:
        """One JSON file a slot, and what the operator wants of it."""
        return self.data / "state"

    @property
    def runners(self) -> Path:
        """Unpacked runners by version, and `current`, a link to the one in use."""
        return self.data / "runners"

    @property
    def run(self) -> Path:
        """What does not survive a reboot: locks, JIT configurations, status."""
        return self.root / "run/hub-runner"

    @property
    def logs(self) -> Path:
        """What the runners of ended jobs logged."""
        return self.root / "var/log/hub-runner"

    @property
    def socket(self) -> Path:
        """Where the unit that holds the key listens."""
        return self.run / "mint.sock"

    def jit(self, slot: int) -> Path:
        """The JIT configuration of the runner that is about to start: root's, 0400, until the runner has it."""
        return self.run / f"jit-{slot}"

    def disk(self, slot: int) -> Path:
        """Mount point of the slot's own file system."""
        return self.data / f"slots/{slot}/disk"

    def image(self, slot: int) -> Path:
        """The file that holds that file system; made anew for each job."""
        return self.data / f"slots/{slot}/disk.img"
