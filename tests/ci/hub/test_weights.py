"""Weights found in index and headers, on the stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.hub.fetch import fetch
from tests.ci.hub.samples import (
    MODEL,
    REQUEST,
    first_layers,
    make_repository,
    stored_tensors,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer


def test_a_single_file_without_an_index(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    hub.add(MODEL, repository := make_repository(tmp_path / "single", shards=1))
    assert stored_tensors(fetch(REQUEST, settings)) == first_layers(repository, 2)


@pytest.mark.parametrize("probe", [8, 9, 100, 456])
def test_headers_longer_than_the_first_look(
    settings: Settings, commit: str, repository: Path, monkeypatch: pytest.MonkeyPatch, probe: int
) -> None:
    monkeypatch.setattr("ci.hub.weights.HEADER_PROBE", probe)
    assert stored_tensors(fetch(REQUEST, settings)) == first_layers(repository, 2)
