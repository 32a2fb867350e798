"""What compiled code is valid for: the packages that made it, the GPUs and their driver, the processor, the system.

Inductor and Triton have keys of their own for the code that they compiled; these hold within one such target. Nothing
of the subject's interpreter is run: the records of its installed packages say what it holds.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.nvml import read_nvml
from ci.subjects.image_root import find_image_root
from ci.subjects.interpreter_paths import list_interpreter_directories

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.nvml import Nvml

CPU_INFO = Path("/proc/cpuinfo")
CPU_FIELDS = ("model name", "CPU implementer", "CPU part", "flags", "Features")
IMAGE_RECORD = "umoci.json"
"""The file beside an unpacked image that has its digest."""
SITE_DIRECTORIES = ("python3*/site-packages", "python3*/dist-packages")


@dataclass(frozen=True)
class CompileTarget:
    """What a directory of compiled code was made by and for. `packages` and `cpu` are SHA-256, in hex.

    `packages` covers every file of every installed package, as its RECORD lists them with their hashes
    (https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
    """

    packages: str
    gpus: tuple[str, ...]
    driver: str
    cpu: str
    system: str

    @property
    def key(self) -> str:
        """The first 32 digits of the SHA-256 of all fields."""
        return _hash([json.dumps(asdict(self), sort_keys=True).encode()])[:32]


def read_compile_target(python: Path, nvml: Nvml | None = None, cpu_info: Path = CPU_INFO) -> CompileTarget:
    """Read what code that the interpreter `python` compiles here is valid for."""
    nvml = read_nvml() if nvml is None else nvml
    libc = " ".join(platform.libc_ver())
    return CompileTarget(
        packages=hash_packages(python),
        gpus=tuple(sorted({gpu.name for gpu in nvml.gpus})),
        driver=f"{nvml.driver} {nvml.cuda}".strip(),
        cpu=_hash([_read_processor(cpu_info).encode()]),
        system=f"{platform.system()} {platform.machine()} {libc} {_read_release()}",
    )


def hash_packages(python: Path) -> str:
    """Hash the interpreter's path and the records of all packages that it can import; of an image, its digest too."""
    records = {record for site in _find_sites(python) for record in site.glob("*-info") if record.is_dir()}
    lines = [f"{record.name} {_hash_record(record / 'RECORD')}" for record in sorted(records, key=str)]
    root = find_image_root(python)
    image = (_hash_record(root.parent / IMAGE_RECORD),) if root else ()
    return _hash(line.encode() for line in (str(python.resolve()), *image, *lines))


def _hash_record(path: Path) -> str:
    try:
        return _hash([path.read_bytes()])
    except OSError as problem:
        return str(problem.strerror)


def _find_sites(python: Path) -> set[Path]:
    """Find the directories of installed packages: the environment's, the one's below, and those that it links."""
    root = find_image_root(python)
    seen = (python.absolute().parents[1] / "lib",) if root else list_interpreter_directories(python)
    system = (root or Path("/")) / "usr"
    libraries = [path for path in (*seen, system / "lib", system / "local/lib") if path.name in ("lib", "lib64")]
    installed = {site.resolve() for path in libraries for name in SITE_DIRECTORIES for site in path.glob(name)}
    return installed | {path.resolve() for path in seen if path.is_dir() and path.name not in ("bin", "lib", "lib64")}


def _read_processor(cpu_info: Path) -> str:
    """Return the model and the instruction sets of the first processor."""
    try:
        first = cpu_info.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.split(":")[0].strip() in CPU_FIELDS)


def _read_release() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{release.get('ID', '')} {release.get('VERSION_ID', '')}".strip()


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\n")
    return digest.hexdigest()
