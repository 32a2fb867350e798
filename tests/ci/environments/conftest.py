"""One base environment a session, from a local index of wheels."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import BaseEnvironment, build_base
from ci.environments.description import EnvironmentDescription
from ci.environments.image import PROGRAMS, ImageInstaller
from ci.environments.installer import PipInstaller
from ci.subjects.sandbox import detect_isolation
from tests.ci.environments.images import PYTHON, write_image
from tests.ci.environments.wheels import write_index

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTION = EnvironmentDescription(
    name="standin",
    python=">=3.11",
    requirements=("setuptools>=77", "pybind11>=3", "prebuilt"),
    install="editable",
    import_test="import standin._data, standin.below",
)


@pytest.fixture(scope="session")
def index_environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of an installer that knows only the local index."""
    index = write_index(tmp_path_factory.mktemp("index") / "wheels")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(index)}
    cache = str(tmp_path_factory.mktemp("uv-cache"))  # the user's own may hold what the index lacks
    return {**kept, **offline, "PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1", "UV_CACHE_DIR": cache}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, index_environ: Mapping[str, str]) -> BaseEnvironment:
    """The stand-in's base environment."""
    root = tmp_path_factory.mktemp("environments")
    open_parents(root)
    return build_base(root, DESCRIPTION, PipInstaller(index_environ), python=sys.executable)


@pytest.fixture(scope="session")
def image_base(tmp_path_factory: pytest.TempPathFactory) -> BaseEnvironment:
    """A base environment that is a container image; built where skopeo, umoci and a sandbox are."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"apt-get install {' '.join(missing)}")
    if not detect_isolation().applied:
        pytest.skip(f"no sandbox here: {detect_isolation().description}")
    folder = tmp_path_factory.mktemp("image")
    open_parents(folder)
    description = EnvironmentDescription(name="small", python=PYTHON, image=f"oci:{write_image(folder)}:small")
    return build_base(folder / "environments", description, ImageInstaller(os.environ))


def open_parents(folder: Path) -> None:
    """Let the sandbox's user enter a folder of the tests."""
    for directory in (folder, *folder.parents):
        if directory.is_relative_to(Path("/tmp")) and directory != Path("/tmp"):
            directory.chmod(0o755)
