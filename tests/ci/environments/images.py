"""A container image with a small system of its own, as an OCI image layout: this interpreter, pip, setpriv."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

PYTHON = "/opt/python/bin/python3"
MARKER = "/etc/made-by"
SET_ID = "/usr/bin/su"
"""A file with set-user-id, as every distribution has some."""
LEFT_OUT = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data"),
    *("site-packages", "dist-packages", "config-*", "_test*", "_tkinter*"),
)


def write_image(folder: Path, variables: tuple[str, ...] = ("FROM_IMAGE=yes", "LD_LIBRARY_PATH=/opt/lib")) -> Path:
    """Write an image layout with the tag `small`: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""
    root, layout = folder / "root", folder / "layout"
    _write_root(root)
    (layout / "blobs/sha256").mkdir(parents=True)
    with tarfile.open(folder / "layer.tar", "w:gz", compresslevel=1) as layer:
        layer.add(root, arcname=".")
    system = _add_blob(layout, (folder / "layer.tar").read_bytes())
    plain = hashlib.sha256(gzip.decompress((folder / "layer.tar").read_bytes())).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/opt/python/bin:/usr/bin", *variables]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
    }
    about = {"mediaType": "application/vnd.oci.image.config.v1+json", **_add_blob(layout, json.dumps(config).encode())}
    layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **system}]
    manifest = json.dumps({"schemaVersion": 2, "config": about, "layers": layers}).encode()
    tagged = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "annotations": {"org.opencontainers.image.ref.name": "small"},
        **_add_blob(layout, manifest),
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def _write_root(root: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(shutil.__file__).parent
    shutil.copytree(library, root / "opt/python/lib" / version, ignore=LEFT_OUT, symlinks=False)
    (root / "opt/python/bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), root / f"opt/python/bin/{version}")
    (root / PYTHON.lstrip("/")).symlink_to(f"/opt/python/bin/{version}")  # as many images have it: from their own root
    pip = find_spec("pip")
    assert pip
    assert pip.origin
    site = root / "opt/python/lib" / version / "site-packages"
    shutil.copytree(Path(pip.origin).parent, site / "pip")
    for name in ("setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth"):
        _copy_package(name, site)
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/setpriv", root / "usr/bin")
    (root / SET_ID.lstrip("/")).write_text("su")
    (root / SET_ID.lstrip("/")).chmod(0o6755)
    extensions = sorted((library / "lib-dynload").glob("*.so"))
    _copy_libraries([Path(sys.executable).resolve(), Path("/usr/bin/setpriv"), *extensions], root)
    (root / "etc").mkdir()
    (root / MARKER.lstrip("/")).write_text("the image")


def _copy_package(name: str, site: Path) -> None:
    for path in map(Path, sys.path):
        for found in (*path.glob(name), *path.glob(f"{name}-*.dist-info")):
            (shutil.copytree if found.is_dir() else shutil.copy)(found, site / found.name)


def _copy_libraries(programs: list[Path], root: Path) -> None:
    """Copy the shared libraries that programs name, to the paths where their loader looks."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    for library in dict.fromkeys(re.findall(r"(?:=>\s*|^\s*)(/\S+) \(0x", said, re.MULTILINE)):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(library).resolve(), place)


def _add_blob(layout: Path, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}
