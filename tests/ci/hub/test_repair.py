"""Repair: damaged checkpoints are set aside and fetched again, also after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.fetch import fetch
from ci.hub.manifest import RULES_VERSION
from ci.hub.repair import repair_store
from ci.hub.store import Store
from ci.hub.store_paths import StorePaths
from tests.ci.hub.checkpoints import KEY, add
from tests.ci.hub.samples import MODEL, REQUEST, first_layers, stored_tensors
from tests.ci.hub.test_code_files import add_model, fetch_code

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer


@pytest.fixture
def fetched(settings: Settings, commit: str) -> Path:
    assert commit
    return Path(fetch(REQUEST, settings).path)


def flip(path: Path) -> None:
    weights = next(path.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def states(settings: Settings) -> list[str]:
    return [entry.state for entry in Store(settings.cache).verify()]


def test_a_damaged_checkpoint_is_fetched_again(settings: Settings, fetched: Path, repository: Path) -> None:
    assert repair_store(settings) == ()
    flip(fetched)
    assert states(settings) == ["damaged"]
    (repair,) = repair_store(settings)
    assert (repair.model_id, repair.state) == (MODEL, "repaired")
    assert repair.detail.endswith("has other content than when it was fetched")
    assert states(settings) == ["complete"]
    assert stored_tensors(fetch(REQUEST, settings)) == first_layers(repository, 2)
    assert [entry.state for entry in Store(settings.cache).list_entries()] == ["complete", "quarantined"]
    assert repair_store(settings) == ()


def test_a_repair_that_was_killed_is_finished_by_the_next(settings: Settings, fetched: Path) -> None:
    assert StorePaths(settings.cache).set_aside(fetched, fetched.stat().st_ino)
    assert states(settings) == []
    (repair,) = repair_store(settings)
    assert (repair.state, repair.detail) == ("repaired", "damaged, set aside earlier")
    assert states(settings) == ["complete"]


def test_without_the_hub_it_stays_set_aside_for_the_next(
    settings: Settings, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(fetched)
    with monkeypatch.context() as broken:
        broken.setattr("ci.hub.repair.fetch", raise_unreachable)
        (repair,) = repair_store(settings)
        assert (repair.state, repair.detail.rpartition("; ")[2]) == ("failed", "no Hub")
        assert states(settings) == []
    assert [one.state for one in repair_store(settings)] == ["repaired"]


def raise_unreachable(*_: object, **__: object) -> None:
    raise InfrastructureError("no Hub")


def test_what_cannot_be_made_again_is_told(settings: Settings) -> None:
    store = Store(settings.cache)
    store.create_directories()
    path = add(store)
    older = path.with_name(path.name.replace(f"-r{RULES_VERSION}-", f"-r{RULES_VERSION - 1}-"))
    path.rename(older)
    (older / "model.safetensors").write_bytes(b"y" * 4096)
    (repair,) = repair_store(settings)
    assert (repair.state, older.exists()) == ("not fetched again", False)
    assert repair_store(settings) == ()


def test_what_was_replaced_meanwhile_is_not_set_aside(store: Store) -> None:
    path = add(store)
    assert StorePaths(store.root).set_aside(path, path.stat().st_ino + 1) is None
    assert store.find(KEY) is not None


def test_a_checkpoint_that_cannot_be_moved_is_told(
    settings: Settings, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(fetched)
    monkeypatch.setattr(StorePaths, "set_aside", lambda *_: None)
    (repair,) = repair_store(settings)
    assert (repair.path, repair.state) == (str(fetched), "failed")
    assert "on a machine that writes the store" in repair.detail


def test_damaged_code_is_fetched_again_as_a_whole(settings: Settings, hub: HubServer, tmp_path: Path) -> None:
    commit = add_model(hub, tmp_path / "own")
    directory = fetch_code(MODEL, commit, settings)
    (directory / "modeling_own.py").chmod(0o644)
    (directory / "modeling_own.py").write_text("import evil\n")
    assert states(settings) == ["damaged"]
    (repair,) = repair_store(settings)
    assert (repair.model_id, repair.state, repair.path) == (MODEL, "repaired", str(directory))
    assert states(settings) == ["complete"]
    (directory / "configuration_own.py").unlink()
    (failed,) = repair_store(replace(settings, offline=True))
    assert failed.state == "failed"
