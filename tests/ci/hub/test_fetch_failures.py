"""A fetch that cannot end well: one line, the right kind of error, and nothing that looks complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import HubTestsError, InfrastructureError, NotTruncatableError, RequestError
from ci.hub.fetch import FetchRequest, fetch
from ci.hub.manifest import MANIFEST, read_manifest
from ci.hub.store import Store
from tests.ci.hub.samples import (
    CONFIG,
    MODEL,
    REQUEST,
    first_layers,
    stored_tensors,
    write_json,
    write_shard,
)
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer

Harm = Callable[[Path], object]


def move_norm(repository: Path, place: Any) -> None:
    """Let the index say that a tensor is somewhere else."""
    index = json.loads((repository / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = place
    write_json(repository / INDEX, index)


def write_config(repository: Path, text: str) -> None:
    (repository / "config.json").write_text(text)


def add_mtp_norms(repository: Path) -> None:
    """Add norms that look like multi-token prediction to a model type of which nothing is known."""
    index = json.loads((repository / INDEX).read_text())
    shard = index["weight_map"].pop("model.norm.weight")
    index["weight_map"] |= {f"model.mtp_norms.{n}.weight": shard for n in range(3)}
    write_json(repository / INDEX, index)


SHARD = "model-00001-of-00003.safetensors"
INDEX = "model.safetensors.index.json"

WRONG_UPSTREAM: dict[str, tuple[Harm, str]] = {
    "config is no JSON": (lambda r: write_config(r, "{"), r"config\.json: not valid JSON"),
    "config is no UTF-8": (lambda r: (r / "config.json").write_bytes(b'{"a": "\xff"}'), "UTF-8"),
    "config is huge": (lambda r: write_config(r, "{}" + " " * 2**24), "the limit is"),
    "no config": (lambda r: (r / "config.json").unlink(), r"config\.json: the repository has no such file"),
    "index is no JSON": (lambda r: (r / INDEX).write_text("["), "not valid JSON"),
    "index without a map": (lambda r: write_json(r / INDEX, {"weight_map": {}}), "no weight_map"),
    "map to a list": (lambda r: move_norm(r, ["x"]), "which is not a valid name of a"),
    "map out of the root": (lambda r: move_norm(r, "../../etc/x.safetensors"), "which is not a valid name of a"),
    "map to another format": (lambda r: move_norm(r, "config.json"), "which is not a valid name of a"),
    "map to nowhere": (lambda r: move_norm(r, "gone.safetensors"), "which the repository lacks"),
    "map to the wrong shard": (lambda r: move_norm(r, SHARD), r"lacks tensor 'model\.norm"),
    "shard cut short": (lambda r: (r / SHARD).write_bytes((r / SHARD).read_bytes()[:-1]), "tensors fill"),
    "shard is another": (lambda r: write_shard(r / SHARD, {"model.embed_tokens.weight": (32, 8)}), "lacks tensor"),
    "shard is noise": (lambda r: (r / SHARD).write_bytes(b"\xee" * 5000), "over the limit"),
    "shard is empty": (lambda r: (r / SHARD).write_bytes(b""), "too few"),
}
LIMITS: dict[str, tuple[Harm, str]] = {
    "norms of MTP": (add_mtp_norms, r"cannot truncate this yet: model\.mtp_norms\.0\.weight looks like multi-token"),
    "no depth": (lambda r: write_config(r, "{}"), "cannot truncate this yet: no field says how many layers"),
    "unknown field": (lambda r: write_json(r / "config.json", {**CONFIG, "odd": [1] * 5}), "odd looks as if"),
    "another depth": (lambda r: write_json(r / "config.json", {**CONFIG, "num_hidden_layers": 9}), "says 9 layers"),
    "layers beyond": (
        lambda r: write_json(r / "config.json", {**CONFIG, "num_hidden_layers": 3}),
        "beyond the 3 layers",
    ),
}
"""What hub-tests itself cannot do: no fault of the Hub, the model or the subject."""
IMPOSSIBLE: dict[str, tuple[Harm, str]] = {
    "absurd depth": (lambda r: write_json(r / "config.json", {**CONFIG, "num_hidden_layers": 10**18}), "at most"),
    "no weights": (lambda r: (r / INDEX).unlink(), r"neither model\.safetensors nor pytorch"),
}


def check_refused(settings: Settings, kind: type[HubTestsError], problem: str) -> None:
    with pytest.raises(kind, match=problem) as failed:
        fetch(REQUEST, settings)
    assert "\n" not in str(failed.value)
    assert type(failed.value) is kind
    assert Store(settings.cache).list_entries() == ()
    assert not list(settings.cache.rglob(MANIFEST))


@pytest.mark.parametrize("name", WRONG_UPSTREAM)
def test_wrong_files_upstream(hub: HubServer, settings: Settings, repository: Path, name: str) -> None:
    harm, problem = WRONG_UPSTREAM[name]
    harm(repository)
    hub.add(MODEL, repository)
    check_refused(settings, InfrastructureError, problem)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_truncated(hub: HubServer, settings: Settings, repository: Path, name: str) -> None:
    harm, problem = IMPOSSIBLE[name]
    harm(repository)
    hub.add(MODEL, repository)
    check_refused(settings, RequestError, problem)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_hub_tests_itself(hub: HubServer, settings: Settings, repository: Path, name: str) -> None:
    harm, problem = LIMITS[name]
    harm(repository)
    hub.add(MODEL, repository)
    check_refused(settings, NotTruncatableError, problem)


@pytest.mark.parametrize("layers", [0, -1, 6])
def test_impossible_counts(settings: Settings, commit: str, layers: int) -> None:
    with pytest.raises(RequestError, match=f"{layers} layers asked for"):
        fetch(replace(REQUEST, layers=layers), settings)


def test_a_name_that_is_none(settings: Settings) -> None:
    with pytest.raises(RequestError, match="is not a Hub model id"):
        fetch(FetchRequest("../../etc"), settings)


def test_a_hub_that_answers_for_another_commit(hub: HubServer, settings: Settings, commit: str) -> None:
    hub.catalog.repos[MODEL].refs["a" * 40] = commit
    with pytest.raises(InfrastructureError, match=f"asked for commit {'a' * 40}, the Hub answered with {commit}"):
        fetch(replace(REQUEST, revision="a" * 40), settings)


def test_a_store_that_cannot_be_written(settings: Settings, commit: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match=r"cannot be written.*HUB_TESTS_CACHE"):
        fetch(REQUEST, replace(settings, cache=tmp_path / "file"))


def test_no_room_leaves_nothing(
    hub: HubServer, settings: Settings, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.hub.store.FREE_SPACE_MARGIN", 2**60)
    with pytest.raises(InfrastructureError, match="free on this disk"):
        fetch(REQUEST, settings)
    assert Store(settings.cache).list_entries() == ()


def test_a_network_that_goes_away_leaves_parts_to_go_on_from(
    hub: HubServer, settings: Settings, commit: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.hub.transfer.PIECE_SIZE", 100)
    monkeypatch.setattr("ci.hub.transfer.LARGEST_REQUEST", 100)
    hub.faults.inject(Fault("drop", origin="cdn", skip=8, times=None))
    with pytest.raises(InfrastructureError, match="times in a row"):
        fetch(REQUEST, settings)
    assert [(entry.state, entry.in_use) for entry in Store(settings.cache).list_entries()] == [("partial", False)]
    hub.faults.clear()
    hub.log.clear()
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == first_layers(repository, 2)
    assert [entry.state for entry in Store(settings.cache).verify()] == ["complete"]
    assert [entry.state for entry in Store(settings.cache).list_entries()] == ["complete"], "parts stayed behind"


def test_a_damaged_checkpoint_is_fetched_again(settings: Settings, commit: str, repository: Path) -> None:
    checkpoint = fetch(REQUEST, settings)
    (Path(checkpoint.path) / "model.safetensors").write_bytes(b"")
    again = fetch(REQUEST, settings)
    assert (again.cache, again.path) == ("miss", checkpoint.path)
    assert stored_tensors(again) == first_layers(repository, 2)


def test_upstreams_manifest_is_not_ours(hub: HubServer, settings: Settings, repository: Path) -> None:
    """A repository may hold any file, also one that is called as ours are."""
    for name in (MANIFEST, "hub-tests.json.draft", ".parts.jsonl"):
        (repository / name).write_text("{}")
    hub.add(MODEL, repository)
    checkpoint = fetch(REQUEST, settings)
    assert read_manifest(Path(checkpoint.path))[0].model_id == MODEL
