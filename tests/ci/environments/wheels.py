"""A local index of wheels, and a subject with the packaging habits of a real one."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

PYBIND11 = "def get_include():\n    return '/usr/include'\n"


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """Write a pure wheel: https://packaging.python.org/en/latest/specifications/binary-distribution-format/"""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]).encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


def repack(folder: Path, name: str) -> Path:
    """Make a wheel of an installed pure distribution."""
    installed: Distribution = distribution(name)
    files = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in installed.files or ()
        if ".." not in file.parts and "__pycache__" not in file.parts and file.parts[0] != f"{name}.egg-info"
        if not any(part.endswith(".dist-info") for part in file.parts) or file.name == "entry_points.txt"
    }
    return write_wheel(folder, name, installed.version, files)


def write_index(folder: Path) -> Path:
    """A folder of wheels: what a build needs that no network brings.

    `uv venv --seed` installs pip, and before Python 3.12 setuptools and wheel: without them here it takes what other
    work left in the user's cache, and fails where there is none.
    """
    folder.mkdir()
    for name in ("pip", "setuptools"):
        repack(folder, name)
    write_wheel(folder, "wheel", "0.45.1", {"wheel/__init__.py": b""})
    write_wheel(folder, "pybind11", "3.0.1", {"pybind11/__init__.py": PYBIND11.encode()})
    write_wheel(folder, "prebuilt", "1.0", {"prebuilt.py": b"VALUE = 1\n"})
    return folder


SETUP = """
try:
    import pybind11
    import setuptools
except ImportError:
    raise ImportError("install pybind11 first, and use --no-build-isolation")
setuptools.setup(
    name="standin", version="1.2", packages=["standin"],
    extras_require={"CORE": ["cannot-be-built==1"]},
    ext_modules=[setuptools.Extension("standin._data", ["standin/_data.c"], include_dirs=[pybind11.get_include()])],
)
"""
EXTENSION = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_data", NULL, -1, NULL};
PyMODINIT_FUNC PyInit__data(void) { return PyModule_Create(&module); }
"""


def write_subject(folder: Path) -> Path:
    """A checkout like Fast-LLM's: pybind11 in setup.py and in no build requirement, a compiled extension, an extra that
    cannot be built, subpackages that no wheel holds, and an import that needs what no extra brings."""
    package = folder / "standin"
    (package / "below").mkdir(parents=True)
    (folder / "setup.py").write_text(SETUP)
    (package / "_data.c").write_text(EXTENSION)
    (package / "__init__.py").write_text("import prebuilt\n")
    (package / "below" / "__init__.py").write_text("")
    return folder


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
