"""The whole fetch, from request to checkpoint, on the stand-in."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.companion_files import MAX_NAMED_TEMPLATES
from ci.errors import InfrastructureError
from ci.hub.checkpoint_files import find_content_problems
from ci.hub.fetch import FetchRequest, fetch
from ci.hub.manifest import read_manifest
from ci.hub.prune import PruneRequest
from ci.hub.store import Store
from ci.records import to_json
from tests.ci.hub.samples import (
    CONFIG,
    MODEL,
    REQUEST,
    first_layers,
    layer_shapes,
    make_repository,
    model_shapes,
    read_tree,
    stored_tensors,
    upstream_tensors,
    write_json,
)

if TYPE_CHECKING:
    from ci.hub.progress import Progress
    from ci.settings import Settings
    from tests.standin.server import HubServer


def test_a_standard_directory(settings: Settings, commit: str, repository: Path) -> None:
    checkpoint = fetch(REQUEST, settings)
    path = Path(checkpoint.path)
    assert sorted(entry.name for entry in path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "hub-tests.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert stored_tensors(checkpoint) == first_layers(repository, 2)
    assert json.loads((path / "config.json").read_text()) == {**CONFIG, "num_hidden_layers": 2}
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (path / name).read_bytes() == (repository / name).read_bytes()
    sizes = sum(len(data) for data in first_layers(repository, 2).values())
    assert (checkpoint.revision, checkpoint.layers, checkpoint.layers_upstream) == (commit, 2, 5)
    assert (checkpoint.cache, checkpoint.bytes_kept, checkpoint.notes) == ("miss", sizes, ())
    assert checkpoint.seconds > 0
    assert json.loads(to_json(checkpoint))["model_id"] == MODEL


def test_any_machine_writes_the_same_bytes(settings: Settings, commit: str, tmp_path: Path) -> None:
    first = fetch(REQUEST, settings)
    second = fetch(REQUEST, replace(settings, cache=tmp_path / "elsewhere"))
    assert read_tree(Path(first.path)) == read_tree(Path(second.path))
    assert first.manifest_sha256 == second.manifest_sha256


def test_transformers_finds_nothing_missing_and_nothing_else(hub: HubServer, settings: Settings) -> None:
    from transformers import AutoModelForCausalLM

    from tests.standin.models import repository as generated

    for model_id in ("mistralai/Mixtral-8x7B-v0.1", "stand-in/llama-tied"):
        hub.add(model_id, generated(model_id))
        checkpoint = fetch(FetchRequest(model_id, layers=2), settings)
        model, info = AutoModelForCausalLM.from_pretrained(checkpoint.path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert not info["mismatched_keys"]
        assert model.config.num_hidden_layers == 2


def test_the_whole_depth_is_the_whole_model(settings: Settings, commit: str, repository: Path) -> None:
    checkpoint = fetch(replace(REQUEST, layers=5), settings)
    assert stored_tensors(checkpoint) == upstream_tensors(repository)
    assert (Path(checkpoint.path) / "config.json").read_bytes() == (repository / "config.json").read_bytes()


def test_files_of_which_nothing_is_left_out_are_copied_and_read_back_once(
    settings: Settings, commit: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, hashed = os.preadv, []

    def count(*args: Any) -> int:
        hashed.append(read(*args))
        return hashed[-1]

    monkeypatch.setattr("ci.hub.file_hashes.os.preadv", count)
    checkpoint = fetch(replace(REQUEST, layers=5), settings)
    assert checkpoint.not_verified_upstream == ()
    shards = sorted(repository.glob("*.safetensors"))
    for shard in shards:
        assert (Path(checkpoint.path) / shard.name).read_bytes() == shard.read_bytes()
    files = sum(shard.stat().st_size for shard in shards)
    assert sum(hashed) == files, "a byte is read once for the file's digest and its tensor's"


def test_no_byte_and_no_request_too_many(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    tensors = {name: tuple(64 * n for n in shape) for name, shape in model_shapes().items()}
    hub.add(MODEL, make_repository(tmp_path / "large", tensors=tensors))
    checkpoint = fetch(replace(REQUEST, layers=1), settings)
    touched = {request.file for request in hub.requests("cdn")}
    assert touched == {"model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"}
    asked = [request.file for request in hub.requests("hub")]
    assert len(asked) == len(set(asked)) == checkpoint.requests == len(touched) + 6
    assert checkpoint.bytes_fetched == sum(request.sent for request in hub.log if request.status < 300)
    data = sum(request.sent for request in hub.requests("cdn"))
    assert data - checkpoint.bytes_kept <= len(touched) * 128 * 1024, "more than the headers' probes was moved"


COMPANIONS = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def add_companions(directory: Path, number: int, **changed: str) -> Path:
    """Create a repository of three shards, the weights of one commit, and four companion files."""
    made = make_repository(directory, seed=10 * number)
    (made / "chat_template.jinja").write_text(changed.get("template", "{{ messages }}"))
    assert sorted(path.name for path in made.iterdir() if path.name in COMPANIONS) == sorted(COMPANIONS)
    return made


@pytest.mark.parametrize("detour", [False, True])
def test_a_companion_is_asked_for_only_where_the_store_has_it_not(
    hub: HubServer, settings: Settings, tmp_path: Path, *, detour: bool
) -> None:
    """Requests are touched shards + 3 + unknown companions; one more where the Hub redirects small files."""
    hub.catalog.relative_redirects = detour
    hub.add(MODEL, add_companions(tmp_path / "one", 1))
    first = fetch(replace(REQUEST, layers=1), settings)
    assert first.requests == len(hub.requests("hub")) == 2 + 3 + 4 + detour
    assert fetch(replace(REQUEST, layers=2), settings).requests == 3 + 3 + detour, "another part touches three shards"
    hub.add(MODEL, add_companions(tmp_path / "two", 2))
    newer = fetch(replace(REQUEST, layers=1), settings)
    assert newer.revision != first.revision
    assert newer.requests == 2 + 3 + detour, "the next commit has the same companions"
    hub.add(MODEL, add_companions(tmp_path / "three", 3, template="{{ other }}"))
    third = fetch(replace(REQUEST, layers=1), settings)
    assert third.requests == 2 + 4 + detour, "one companion changed"
    assert (Path(third.path) / "chat_template.jinja").read_text() == "{{ other }}"
    hub.catalog.lists_digests = False
    hub.add(MODEL, add_companions(tmp_path / "four", 4))
    assert fetch(replace(REQUEST, layers=1), settings).requests <= 2 + 3 + 4 + detour, "without digests in the list"


def test_named_chat_templates_are_fetched_verified_and_known(
    hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    repository = add_companions(tmp_path / "one", 1)
    names = [f"additional_chat_templates/{number:02}.jinja" for number in range(MAX_NAMED_TEMPLATES + 2)]
    (repository / "additional_chat_templates").mkdir()
    for name in names:
        (repository / name).write_text(f"{{{{ {name} }}}}")
    hub.add(MODEL, repository)
    first = fetch(replace(REQUEST, layers=1), settings)
    assert first.requests == 2 + 3 + 4 + MAX_NAMED_TEMPLATES, "one for each template, up to a number"
    assert [str(note) for note in first.notes] == [
        f"additional_chat_templates/ has {len(names)} chat templates, the first {MAX_NAMED_TEMPLATES} are kept"
    ]
    kept = sorted(path.relative_to(first.path).as_posix() for path in Path(first.path).rglob("*/*.jinja"))
    assert kept == names[:MAX_NAMED_TEMPLATES]
    assert (Path(first.path) / names[3]).read_bytes() == (repository / names[3]).read_bytes()
    manifest, _ = read_manifest(Path(first.path))
    assert find_content_problems(Path(first.path), manifest) == []
    assert set(kept) < set(manifest.files)
    (Path(first.path) / names[0]).chmod(0o644)
    (Path(first.path) / names[0]).write_text("{{ other }}")
    assert find_content_problems(Path(first.path), manifest), "a changed template is seen"
    (Path(first.path) / names[0]).write_bytes((repository / names[0]).read_bytes())
    assert fetch(replace(REQUEST, layers=2), settings).requests == 3 + 3, "the store has them for other layers"


@pytest.mark.parametrize("detour", [False, True])
def test_no_more_requests_than_hf_download_makes_for_the_same_files(
    hub: HubServer, settings: Settings, tmp_path: Path, *, detour: bool
) -> None:
    from huggingface_hub import snapshot_download

    hub.catalog.relative_redirects = detour
    hub.add(MODEL, add_companions(tmp_path / "one", 1))
    ours = fetch(replace(REQUEST, layers=1), settings).requests
    touched = {str(request.file) for request in hub.requests("cdn")}
    hub.log.clear()
    files = ["config.json", "model.safetensors.index.json", *COMPANIONS, *touched]
    snapshot_download(MODEL, allow_patterns=files, endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache")
    assert ours < len(hub.requests("hub"))


def test_neighbours_are_one_range(hub: HubServer, settings: Settings, commit: str) -> None:
    fetch(REQUEST, settings)
    ranges = [request.range for request in hub.requests("cdn") if request.range]
    assert len(ranges) <= 4


def test_a_second_fetch_moves_nothing(hub: HubServer, settings: Settings, commit: str) -> None:
    first = fetch(REQUEST, settings)
    hub.log.clear()
    again = fetch(replace(REQUEST, revision=commit), settings)
    assert hub.log == []
    assert (again.cache, again.requests, again.bytes_fetched) == ("hit", 0, 0)
    assert (again.path, again.manifest_sha256, again.bytes_kept) == (
        first.path,
        first.manifest_sha256,
        first.bytes_kept,
    )
    by_branch = fetch(REQUEST, settings)
    assert (by_branch.cache, by_branch.requests, len(hub.log)) == ("hit", 1, 1)


def test_what_was_fetched_is_held_while_the_process_lives(settings: Settings, commit: str) -> None:
    fetch(REQUEST, settings)
    (entry,) = Store(settings.cache).prune(PruneRequest(max_bytes=0))
    assert (entry.state, entry.in_use) == ("complete", True)


def test_a_fetch_shows_that_it_is_alive(settings: Settings, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[str] = []
    beats: list[str] = []
    monkeypatch.setattr("ci.hub.lease.Lease.renew", lambda _: beats.append(phases[-1]))
    fetch(REQUEST, settings, progress=lambda moment: phases.append(moment.phase))
    assert set(beats) == {"tensors", "files"}


def test_a_branch_that_moved_is_fetched_anew(hub: HubServer, settings: Settings, commit: str, repository: Path) -> None:
    fetch(REQUEST, settings)
    write_json(repository / "generation_config.json", {"eos_token_id": 3})
    moved = hub.add(MODEL, repository)
    checkpoint = fetch(REQUEST, settings)
    assert (checkpoint.revision, checkpoint.cache) == (moved, "miss")


def test_every_request_after_the_first_is_for_the_commit(hub: HubServer, settings: Settings, commit: str) -> None:
    fetch(replace(REQUEST, revision="main"), settings)
    first, *others = hub.requests("hub")
    assert first.path.endswith("/revision/main")
    assert all(f"/resolve/{commit}/" in request.path for request in others)


def test_progress_is_told(settings: Settings, commit: str, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[Progress] = []
    checkpoint = fetch(REQUEST, settings, progress=told.append)
    assert [moment.phase for moment in told][:2] == ["resolve", "headers"]
    assert (told[-1].phase, told[-1].done, told[-1].total) == ("done", checkpoint.bytes_kept, checkpoint.bytes_kept)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def deepseek(hub: HubServer, tmp_path: Path) -> str:
    """Three dense layers, then two with experts."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, 8)}
    for index in range(5):
        tensors |= layer_shapes(index, experts=0 if index < 3 else 2)
    config = {**CONFIG, "first_k_dense_replace": 3}
    return hub.add(MODEL, make_repository(tmp_path / "deepseek", tensors=tensors, config=config))


def test_the_fewest_layers_with_every_kind(settings: Settings, deepseek: str) -> None:
    checkpoint = fetch(replace(REQUEST, layers="auto"), settings)
    assert checkpoint.layers == 4
    assert checkpoint.kinds_missed == (
        "layer 3: not below first_k_dense_replace, with mlp.experts.*.w1.weight, without mlp.up_proj.weight",
    )
    assert json.loads((Path(checkpoint.path) / "config.json").read_text())["first_k_dense_replace"] == 3


def test_is_remembered(hub: HubServer, settings: Settings, deepseek: str) -> None:
    first = fetch(FetchRequest(MODEL, "auto", deepseek), settings)
    hub.log.clear()
    again = fetch(FetchRequest(MODEL, "auto", deepseek), settings)
    assert hub.log == []
    assert (again.cache, again.layers, again.kinds_missed) == ("hit", first.layers, first.kinds_missed)


def test_is_the_same_checkpoint_as_the_count(settings: Settings, deepseek: str) -> None:
    counted = fetch(replace(REQUEST, layers=4), settings)
    automatic = fetch(replace(REQUEST, layers="auto"), settings)
    assert (automatic.path, automatic.cache, automatic.bytes_kept) == (counted.path, "hit", counted.bytes_kept)
    assert automatic.bytes_fetched < 10_000


def test_a_commit_that_is_there(hub: HubServer, settings: Settings, commit: str) -> None:
    fetch(REQUEST, settings)
    hub.log.clear()
    offline = replace(settings, offline=True)
    for revision in (commit, None):
        assert fetch(replace(REQUEST, revision=revision), offline).revision == commit
    assert hub.log == []


@pytest.mark.parametrize("revision", [None, "v1", "a" * 40])
def test_what_is_not_there_says_how_to_get_it(settings: Settings, commit: str, revision: str | None) -> None:
    with pytest.raises(
        InfrastructureError, match=r"is not in .*HF_HUB_OFFLINE is set; .*hub-tests fetch owner/model --layers 2"
    ):
        fetch(replace(REQUEST, revision=revision), replace(settings, offline=True))


def test_other_layers_are_not_there(settings: Settings, commit: str) -> None:
    fetch(REQUEST, settings)
    with pytest.raises(InfrastructureError, match=r"with 3 layers \(commit [0-9a-f]{8}\) is not in"):
        fetch(replace(REQUEST, layers=3), replace(settings, offline=True))


def test_a_store_that_is_mounted_read_only(settings: Settings, commit: str, tmp_path: Path) -> None:
    fetch(REQUEST, settings)
    shutil.copytree(settings.cache / "checkpoints", tmp_path / "ro" / "checkpoints")
    shutil.copytree(settings.cache / "refs", tmp_path / "ro" / "refs")
    (tmp_path / "ro").chmod(0o555)
    checkpoint = fetch(REQUEST, replace(settings, cache=tmp_path / "ro", offline=True))
    assert checkpoint.cache == "hit"
