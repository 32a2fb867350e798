"""`hub-tests plan --bytes` as a person sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ci import __main__ as cli
from tests.ci.hub.samples import CONFIG, MODEL, make_repository

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.standin.server import HubServer


def test_a_table_of_the_registry(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(MODEL, make_repository(tmp_path / "m", config={**CONFIG, "vocab_size": 32}))
    registry = tmp_path / "models.toml"
    registry.write_text(f'[small]\nmodel_id = "{MODEL}"\ncheckpoint_format = "llama"\nslice = {{ vocab = 8 }}\n')
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["plan", "--bytes", "--registry", str(registry), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["name"], row["slice"], row["layers"]) == ("small", "vocab=8", 2)
    assert row["sliced"] < row["kept"] < row["whole"]
    assert cli.main(["plan", "--bytes", "--registry", str(registry), "--layers", "0,3", "--slice", "vocab=4"]) == 0
    table = capsys.readouterr().out
    assert "2 of 5" in table
    assert "vocab=4" in table


def test_a_model_with_code_of_its_own_is_a_problem_and_the_hub_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "models.toml"
    registry.write_text('[own]\nmodel_id = "o/own"\ncheckpoint_format = "llama"\ntrust_remote_code = true\n')
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    cli.main(["plan", "--bytes", "--registry", str(registry), "--json"])
    [row] = json.loads(capsys.readouterr().out)
    assert row["problem"].startswith("[own] trust_remote_code: ")
    assert row["received"] == 0


def test_an_event_is_needed_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan"]) == 2
    assert "plan needs --event-name and --event-path" in capsys.readouterr().err
