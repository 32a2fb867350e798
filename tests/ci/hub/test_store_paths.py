"""The layout of a store, its leases, and how a directory goes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest

from ci.hub import lease
from ci.hub.manifest import RULES_VERSION
from ci.hub.slices import Slice
from ci.hub.store_paths import CheckpointKey, StorePaths, decode_model_id, encode_model_id, parse_checkpoint_name
from tests.ci.hub.checkpoints import COMMIT, KEY, add

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.store import Store


def test_leases_of_a_fetch_are_of_that_fetch(store: Store) -> None:
    """Names of keys are prefixes of each other: `L1` and `L12` must not hold one another."""
    path = add(store, replace(KEY, layers=1))
    other = add(store, replace(KEY, layers=12))
    store.mark_in_use(other)
    assert {entry.path: entry.in_use for entry in store.list_entries()} == {str(path): False, str(other): True}
    assert lease.is_active(next((store.root / "leases").iterdir()), timeout=60)


def test_paths_are_as_documented() -> None:
    from pathlib import Path

    paths = StorePaths(Path("/store"))
    rules = f"{COMMIT}-r{RULES_VERSION}"
    assert paths.checkpoint_path(KEY) == Path(f"/store/checkpoints/owner--model/{rules}-L2")
    assert paths.checkpoint_path(replace(KEY, picked=(0, 3))).name == f"{rules}-L2-P0_3"
    assert paths.ref_path("owner/model", None) == Path("/store/refs/owner--model/HEAD.json")
    assert paths.ref_path("owner/model", "a/../b") == Path("/store/refs/owner--model/a%2F..%2Fb.json")
    assert paths.layer_choice_path("owner/model", COMMIT) == Path(f"/store/auto/owner--model/{rules}.json")
    assert paths.lease_name(paths.checkpoint_path(KEY)) == f"owner--model@{rules}-L2"
    assert paths.lease_name(paths.partial / "x.1") == "x.1"


@pytest.mark.parametrize("model_id", ["gpt2", "owner/model", "a-b/c.d_e-f"])
def test_model_ids_survive_as_names_of_directories(model_id: str) -> None:
    assert decode_model_id(encode_model_id(model_id)) == model_id
    assert "/" not in encode_model_id(model_id)


def test_names_of_directories_can_be_read_back() -> None:
    """Repair and admit know a key by the name alone, so a new part of the key must be in both."""
    changed = CheckpointKey("gpt2", "f" * 40, 4, picked=(0, 3, 4, 9), slice=Slice(4096, 4))
    assert all(getattr(changed, field.name) != getattr(KEY, field.name) for field in fields(CheckpointKey))
    for key in (KEY, changed, replace(changed, slice=Slice(vocab=7)), replace(changed, slice=Slice(experts=7))):
        assert parse_checkpoint_name(f"{encode_model_id(key.model_id)}@{key.name}") == (key, RULES_VERSION)


@pytest.mark.parametrize("name", ["", "x", "a@b", f"a@{COMMIT}-r3-L", f"a@{COMMIT}-r3-L2/..", f"a@b@{COMMIT}-r3-L2"])
def test_other_names_are_no_keys(name: str) -> None:
    assert parse_checkpoint_name(name) is None


def test_discarding_what_is_gone_says_so(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    (tmp_path / "x").mkdir()
    assert paths.discard(tmp_path / "x")
    assert not paths.discard(tmp_path / "x")
    assert list(paths.trash.iterdir()) == []
