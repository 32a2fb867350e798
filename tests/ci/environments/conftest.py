"""One base environment a session, from a local index of wheels."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import BaseEnvironment, build_base
from ci.environments.description import EnvironmentDescription
from ci.environments.installer import PipInstaller
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
    return {**kept, **offline, "PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1"}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, index_environ: Mapping[str, str]) -> BaseEnvironment:
    """The stand-in's base environment."""
    root = tmp_path_factory.mktemp("environments")
    for directory in (root, *root.parents):
        if directory.is_relative_to(Path("/tmp")) and directory != Path("/tmp"):
            directory.chmod(0o755)  # the sandbox's user enters
    return build_base(root, DESCRIPTION, PipInstaller(index_environ), python=sys.executable)
