"""The store's verbs as a person sees them, against the Hub stand-in."""

import json
import re
from pathlib import Path

import pytest

from ci import __main__ as cli
from ci.hub.lease import release_all
from tests.standin.models import repository
from tests.standin.server import HubServer

VERBS = (["ls"], ["verify"], ["prune", "--max-size", "5GB"])


@pytest.fixture
def store(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and a Hub with one model."""
    hub.add("stand-in/llama", repository("stand-in/llama"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HUB_TESTS_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "40")
    return tmp_path / "store"


def test_an_empty_store_says_where_it_is(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert cli.main(["cache", *verb]) == 0
        assert capsys.readouterr().out == f"nothing is stored in {store}\n"


def test_a_path_can_be_copied_from_a_narrow_terminal(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1"]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    assert (Path(path) / "config.json").is_file()
    for verb in VERBS:
        assert cli.main(["cache", *verb]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == path


def test_a_damaged_checkpoint_is_named_with_its_file_and_the_way_out(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)[0]["path"])
    (path / "config.json").write_text((path / "config.json").read_text().replace("{", " ", 1))
    assert cli.main(["cache", "verify"]) == 3
    said = "config.json has other content than when it was fetched; to fetch them again: hub-tests cache repair"
    assert capsys.readouterr().err == f"hub-tests: 1 damaged: {path}: {said}\n"


def test_a_damaged_checkpoint_is_repaired(store: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)[0]["path"])
    (path / "pytorch_model.bin").write_bytes(bytes(100))
    assert cli.main(["cache", "repair"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "repaired: stand-in/llama: pytorch_model.bin is a file that the manifest does not name",
        "1 of 1 damaged checkpoints fetched again",
    ]
    assert cli.main(["cache", "verify"]) == 0
    assert cli.main(["cache", "repair", "--json"]) == 0
    assert capsys.readouterr().out.endswith("\n[]\n")


def test_prune_wants_a_limit(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "prune"]) == 2
    said = "cache prune: say what may go: --max-size 50GB, --max-age 14d or both; --dry-run shows it"
    assert capsys.readouterr().err == f"hub-tests: {said}\n"


def test_a_dry_run_says_why_and_changes_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)[0]["path"])
    release_all()  # of this process, which fetched
    before = sorted(store.rglob("*"))
    assert cli.main(["cache", "prune", "--max-size", "0", "--dry-run", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["state"], entry["path"]) == ("removed", str(path))
    assert re.fullmatch(r"the store has .* kB, more than 0 B", entry["reason"])
    assert sorted(store.rglob("*")) == before
    assert cli.main(["cache", "prune", "--max-age", "2d", "--dry-run", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["state"] == "complete"
    assert re.fullmatch(r"within the limits, used \d+ (s|min) ago", entry["reason"])
    assert cli.main(["cache", "prune", "--max-size", "0", "--json"]) == 0
    assert not path.exists()


def test_a_remote_store_is_listed_and_pruned(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"file://{tmp_path / 'remote'}"
    assert cli.main(["cache", "ls", "--store-url", url]) == 0
    assert capsys.readouterr().out == f"nothing is stored in {url}\n"
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1", "--store-url", url]) == 0
    name = Path(capsys.readouterr().out.splitlines()[-1]).name
    assert cli.main(["cache", "prune", "--max-size", "0", "--store-url", url]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == f"{url}/checkpoints/stand-in--llama/{name}"
    assert (tmp_path / "remote" / "checkpoints" / "stand-in--llama" / name).is_dir(), "a run may hold it for a day"
    assert len(list((store / "checkpoints").glob("*/*"))) == 1, "the directory is not pruned"
