"""One scene a session: the judge's files, a store with the model, a stand-in Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.subjects.sandbox import detect_isolation
from tests.attacks.scene import Scene
from tests.ci.environments.conftest import base, index_environ
from tests.standin.models import repository
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["base", "index_environ"]


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The judge's side. Skips where there is no sandbox: without one every attack is allowed."""
    if not detect_isolation().applied:
        pytest.skip(f"no sandbox here: {detect_isolation().description}")
    root = tmp_path_factory.mktemp("scene")
    for directory in (root, *root.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)  # the sandbox's user enters
    with HubServer() as hub:
        hub.add("stand-in/llama", repository("stand-in/llama"))
        scene = Scene(root, hub.endpoint)
        scene.build()
        scene.fetch()
        yield scene
