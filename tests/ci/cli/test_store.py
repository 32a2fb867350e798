"""The store's verbs as a person sees them, against the Hub stand-in."""

import json
from pathlib import Path

import pytest

from ci import __main__ as cli
from tests.standin.models import repository
from tests.standin.server import HubServer


@pytest.fixture
def store(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and a Hub with one model."""
    hub.add("stand-in/llama", repository("stand-in/llama"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HUB_TESTS_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "40")
    return tmp_path / "store"


def test_an_empty_store_says_where_it_is(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("ls", "verify", "prune"):
        assert cli.main(["cache", verb]) == 0
        assert capsys.readouterr().out == f"nothing is stored in {store}\n"


def test_a_path_can_be_copied_from_a_narrow_terminal(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1"]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    assert (Path(path) / "config.json").is_file()
    for verb in ("ls", "verify", "prune"):
        assert cli.main(["cache", verb]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == path


def test_a_damaged_checkpoint_is_named_with_its_file_and_the_way_out(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fetch", "stand-in/llama", "--layers", "1", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)[0]["path"])
    (path / "config.json").write_text((path / "config.json").read_text().replace("{", " ", 1))
    assert cli.main(["cache", "verify"]) == 3
    said = "config.json has other content than when it was fetched; rm -r it and fetch again"
    assert capsys.readouterr().err == f"hub-tests: 1 damaged: {path}: {said}\n"
