import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci import checkpoints
from ci.checkpoints import (
    FetchResults,
    check_own_code,
    fetch_checkpoints,
    fetch_own_code,
    format_checkpoints,
    make_fetch_request,
    read_checkpoints,
    write_checkpoints,
)
from ci.errors import (
    GatedError,
    HubTestsError,
    InfrastructureError,
    NotTruncatableError,
    QuantizedError,
    RemoteCodeError,
    RequestError,
)
from ci.hub.fetch import Checkpoint, FetchRequest
from ci.models import HubModel
from ci.settings import Settings
from tests.ci.hub.samples import make_repository
from tests.standin.server import HubServer

CHECKPOINT = Checkpoint("o/n", "f" * 40, 2, "/store/x", "hit", 10, 0, 0, 0.1, "a" * 64, 30)


def test_checkpoints_come_back_with_what_could_not_be_had(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.json"
    errors = {"b": GatedError("b is gated"), "c": InfrastructureError("away")}
    write_checkpoints(FetchResults({"a": CHECKPOINT}, errors), path)
    back = read_checkpoints(path)
    assert back.result_of("a") == CHECKPOINT
    assert isinstance(back.result_of("b"), GatedError)
    assert isinstance(back.result_of("c"), InfrastructureError)
    assert str(back.result_of("c")) == "away"
    assert back.result_of("d") is None


def test_what_fetch_prints_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "printed.json"
    path.write_text(format_checkpoints({"a": CHECKPOINT}))
    assert read_checkpoints(path) == FetchResults({"a": CHECKPOINT})
    assert json.loads(path.read_text())[0]["name"] == "a"


def test_no_file_is_no_fetch() -> None:
    assert read_checkpoints(None) == FetchResults()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "a", "model_id": 3}]'])
def test_anything_else_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "checkpoints.json"
    path.write_text(text)
    with pytest.raises(RequestError, match="--checkpoints"):
        read_checkpoints(path)


def test_one_models_error_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(request: FetchRequest, *_: Any, **__: Any) -> Checkpoint:
        if request.model_id == "o/a":
            raise InfrastructureError("away")
        return CHECKPOINT

    monkeypatch.setattr(checkpoints, "fetch", fetch)
    models = [HubModel(name, f"o/{name}", "llama") for name in ("a", "b")]
    results = fetch_checkpoints(models, Settings(cache=tmp_path))
    assert list(results.checkpoints) == ["b"]
    assert list(results.errors) == ["a"]


@pytest.mark.parametrize(
    "kind",
    [GatedError, InfrastructureError, NotTruncatableError, RemoteCodeError, QuantizedError, RequestError],
)
def test_an_error_is_of_the_same_class_when_it_is_read_back(kind: type[HubTestsError], tmp_path: Path) -> None:
    write_checkpoints(FetchResults(errors={"m": kind("why")}), tmp_path / "c.json")
    error = read_checkpoints(tmp_path / "c.json").errors["m"]
    assert (type(error), str(error)) == (kind, "why")


def test_a_model_with_code_of_its_own_is_refused_before_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "fetch", lambda *_, **__: pytest.fail("something was fetched"))
    model = HubModel("phi", "o/phi", "llama", trust_remote_code=True)
    results = fetch_checkpoints([model], Settings(cache=tmp_path))
    (error,) = results.errors.values()
    assert isinstance(error, RemoteCodeError)
    assert str(error).startswith("[phi] trust_remote_code: hub-tests does not run code that comes with a model")
    assert "\n" not in str(error)


def test_the_code_of_an_entry_is_brought_before_its_weights(hub: HubServer, tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    directory = make_repository(tmp_path / "m")
    commit = hub.add("o/own", directory)
    model = HubModel("own", "o/own", "llama", trust_remote_code=True, code_environment="e", code_revision=commit)
    results = fetch_checkpoints([model], settings)
    assert set(results.checkpoints) == {"own"}
    assert (settings.cache / "code" / "o--own" / commit / "modeling_custom.py").is_file()
    (directory / "modeling_custom.py").unlink()
    without = replace(model, code_revision=hub.add("o/own", directory), name="without")
    results = fetch_checkpoints([without], settings)
    assert "no Python files beside config.json" in str(results.errors["without"])
    assert not results.checkpoints
    assert fetch_own_code(replace(model, code_revision="", code_path="here"), settings) is None


def test_which_code_must_be_said() -> None:
    model = HubModel("own", "o/own", "llama", trust_remote_code=True, code_environment="e")
    with pytest.raises(RemoteCodeError, match="name code_revision, the full commit of o/own that has it, or code_path"):
        check_own_code(model)


def test_only_what_a_subject_converts_must_have_plain_weights() -> None:
    assert make_fetch_request(HubModel("a", "o/a", "llama")).refuse_quantized
    assert not make_fetch_request(HubModel("a", "o/a", "llama", dequantize="fp8-blocks")).refuse_quantized
    assert not make_fetch_request(HubModel("o/a", "o/a", "")).refuse_quantized
