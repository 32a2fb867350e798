"""All paths on the host, below `root`: / on a host, any directory in a test or a dry run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KEY = Path("/etc/hub-runner/app-key.pem")


@dataclass(frozen=True)
class Layout:
    """The paths of a host."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """The one TOML file."""
        return self.root / "etc/hub-runner/hub-runner.toml"

    @property
    def key(self) -> Path:
        """The GitHub App's private key, readable by root only (0400)."""
        return self.root / KEY.relative_to("/")

    @property
    def program(self) -> Path:
        """The virtual environment and the scripts that units call."""
        return self.root / "opt/hub-runner"

    @property
    def node_modules(self) -> Path:
        """The second engine of chat templates, a package of node."""
        return self.program / "node/node_modules"

    @property
    def data(self) -> Path:
        """The directory that survives a reboot: state, slot disks, unpacked runners."""
        return self.root / "var/lib/hub-runner"

    @property
    def state(self) -> Path:
        """The directory of state files: one for each slot, and the operator's wishes."""
        return self.data / "state"

    @property
    def runners(self) -> Path:
        """Unpacked runners by version, and `current`, a link to the one in use."""
        return self.data / "runners"

    @property
    def environments(self) -> Path:
        """The subjects' base environments, and the interpreters that uv brought for them."""
        return self.data / "environments"

    @property
    def wheels(self) -> Path:
        """The wheels of those environments, for jobs that build another one."""
        return self.data / "wheels"

    @property
    def compiled(self) -> Path:
        """What nightly runs compiled, for all jobs."""
        return self.data / "compiled"

    @property
    def run(self) -> Path:
        """The directory that a reboot empties: locks, JIT configurations, metrics."""
        return self.root / "run/hub-runner"

    @property
    def logs(self) -> Path:
        """The logs of the runners of ended jobs."""
        return self.root / "var/log/hub-runner"

    @property
    def socket(self) -> Path:
        """The socket of the registrar."""
        return self.run / "registrar.sock"

    def jit_config(self, slot: int) -> Path:
        """Return the path of the next runner's JIT configuration (root, 0400), deleted once it has started."""
        return self.run / f"jit-{slot}"

    def disk(self, slot: int) -> Path:
        """Return the mount point of the slot's own file system."""
        return self.data / f"slots/{slot}/disk"

    def image(self, slot: int) -> Path:
        """Return the path of the image file with that file system, made anew for each job."""
        return self.data / f"slots/{slot}/disk.img"
