"""A host's file, a fake GitHub with a real key, and what a supervisor needs around it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hub_runner.config_file import parse_config
from hub_runner.layout import Layout
from tests.runner_setup.fake_runners_api import FakeGitHub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hub_runner.config import Config

HERE = Path(__file__).parent
ARC_CHARTS = os.environ.get("HUB_TESTS_ARC_CHARTS")
"""Folder `charts` of a checkout of actions-runner-controller, where there is one."""

EXAMPLE = HERE.parents[1] / "runner-setup/hub-runner.toml"


def config_text(url: str = "https://api.github.com") -> str:
    """The example that the guide starts from, pointed at the fake GitHub."""
    text = EXAMPLE.read_text()
    for old, new in (
        ('"gpu-host-1"', '"host-a"'),
        ("example-org/example-repo", "org/repo"),
        ("7654321", f'77\napi = "{url}"'),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def config(github: FakeGitHub) -> Config:
    return parse_config(config_text(github.url), what="hub-runner.toml")


@pytest.fixture(scope="session")
def app_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = tmp_path_factory.mktemp("app") / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    return key


@pytest.fixture
def github(app_key: Path) -> Iterator[FakeGitHub]:
    fake = FakeGitHub(app_key)
    with fake.serving():
        yield fake


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    place = Layout(tmp_path / "host")
    for directory in (place.state, place.run, place.runners, place.logs, place.config.parent):
        directory.mkdir(parents=True)
    return place
