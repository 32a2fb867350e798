"""What a job hands to a later one comes back whole, or is refused."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.checkpoints import read_checkpoints
from ci.errors import (
    GatedError,
    InfrastructureError,
    NotTruncatableError,
    QuantizedError,
    RemoteCodeError,
    RequestError,
)
from ci.github.job_outputs import (
    MAX_PACKED_CHARS,
    MAX_UNPACKED_BYTES,
    FetchOutputs,
    make_fetch_outputs,
    pack_record,
    unpack_record,
    verify_checkpoint,
    write_run_files,
)
from ci.hub.fetch import Checkpoint, FetchRequest, fetch
from ci.known_refusals import KnownRefusal
from ci.models import HubModel, SubjectEnvironment, TestParams, load_models
from ci.plan import Plan, RunRequest, make_plan
from ci.settings import Settings
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = load_models()


def plan(count: int = 0) -> Plan:
    many = {f"model-{n}": HubModel(f"model-{n}", f"org/model-{n}", "mixtral", groups=("x",)) for n in range(count)}
    return make_plan(RunRequest(models=("*",), sha="1" * 40), many or MODELS)


def test_the_largest_plan_fits_a_variable_and_comes_back() -> None:
    packed = pack_record(plan(256))
    assert len(packed) < MAX_PACKED_CHARS
    assert unpack_record(Plan, packed, what="plan") == plan(256)


@pytest.mark.parametrize(
    "text", ["", "not base64!", "aGVsbG8=", pack_record(plan())[:-8], base64.b64encode(b"{}").decode()]
)
def test_what_nobody_packed(text: str) -> None:
    with pytest.raises(RequestError, match="HUB_TESTS_PLAN"):
        unpack_record(Plan, text, what="HUB_TESTS_PLAN")


def test_a_bomb() -> None:
    bomb = base64.b64encode(zlib.compress(b" " * (MAX_UNPACKED_BYTES + 1))).decode()
    with pytest.raises(RequestError, match="over"):
        unpack_record(Plan, bomb, what="plan")


def test_why_something_was_not_fetched_is_never_the_subjects_fault() -> None:
    failed = {
        "a": InfrastructureError("the Hub answers 503"),
        "b": GatedError("x is gated: ask for access"),
        "c": RequestError("no such model"),
        "d": NotTruncatableError("no rule"),
        "e": RemoteCodeError("own code"),
        "f": QuantizedError("codes"),
    }
    problems = make_fetch_outputs({}, failed, Path("store")).problems
    assert {name: problem.failure_class for name, problem in problems.items()} == {
        "a": "hub_unavailable",
        "b": "gated",
        "c": "environment",
        "d": "not_truncatable",
        "e": "remote_code",
        "f": "quantized",
    }


@pytest.fixture
def fetched(tmp_path: Path) -> Iterator[tuple[FetchOutputs, Path]]:
    """A checkpoint of a small model, really fetched into a store."""
    from tests.standin.models import repository

    with HubServer() as hub:
        hub.add("mistralai/Mistral-7B-v0.1", repository("mistralai/Mistral-7B-v0.1"))
        settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
        point = fetch(FetchRequest("mistralai/Mistral-7B-v0.1"), settings)
        yield make_fetch_outputs({"mistral": point}, {}, settings.cache), settings.cache


def test_a_checkpoint_on_another_machine(fetched: tuple[FetchOutputs, Path], tmp_path: Path) -> None:
    delivery, store = fetched
    assert unpack_record(FetchOutputs, pack_record(delivery), what="delivery") == delivery
    elsewhere = store.rename(tmp_path / "mounted elsewhere")
    point = verify_checkpoint(delivery, "mistral", elsewhere)
    assert point.path.startswith(str(elsewhere))
    checkpoints, registry = write_run_files(plan(), "mistral", point, tmp_path / "admitted")
    assert read_checkpoints(checkpoints).checkpoints == {"mistral": point}
    (model,) = load_models(registry).values()
    assert model == replace(MODELS["mistral"], revision=point.revision)


@pytest.mark.parametrize("harm", ["byte", "manifest", "gone", "file gone"])
def test_a_checkpoint_that_is_not_what_was_fetched(fetched: tuple[FetchOutputs, Path], harm: str) -> None:
    delivery, store = fetched
    folder = store / delivery.checkpoints["mistral"].path
    weights = next(folder.glob("*.safetensors"))
    if harm == "byte":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif harm == "manifest":
        manifest = folder / "hub-tests.json"
        manifest.write_bytes(manifest.read_bytes().replace(b'"layers": 2', b'"layers": 3', 1) + b" ")
    elif harm == "gone":
        folder.rename(folder.with_name("elsewhere"))
    else:
        weights.unlink()
    with pytest.raises(InfrastructureError, match=r"not the checkpoint that was fetched|is not on this machine"):
        verify_checkpoint(delivery, "mistral", store)


def test_a_path_out_of_the_store(tmp_path: Path) -> None:
    point = Checkpoint("o/m", "1" * 40, 2, "../../etc", "hit", 0, 0, 0, 0.0, "0" * 64, 2)
    with pytest.raises(RequestError, match="is outside of the store"):
        verify_checkpoint(FetchOutputs({"m": point}, {}), "m", tmp_path / "store")
    with pytest.raises(InfrastructureError, match="has none in its outputs"):
        verify_checkpoint(FetchOutputs({}, {}), "m", tmp_path)


def test_a_registry_entry_survives_the_way_through_toml(tmp_path: Path) -> None:
    odd = HubModel(
        "odd",
        "org/m",
        'f"\\\n[x]',
        num_layers_to_keep="auto",
        groups=('a"b',),
        gated=True,
        test_params=TestParams(3, 9, 1.5),
        known_refusals=(
            KnownRefusal("fast_llm", "the '>' of \"it\" \\ is refused", "2026-11-25", "https://example.com/x"),
        ),
        environments=(SubjectEnvironment("fast_llm", "fast_llm-gemma4"),),
        trust_remote_code=True,
        code_environment="theirs.toml",
        code_path="x",
    )
    made = make_plan(RunRequest(models=("odd",)), {"odd": odd})
    point = Checkpoint("org/m", "1" * 40, 5, "/x", "hit", 0, 0, 0, 0.0, "0" * 64, 9)
    _, registry = write_run_files(made, "odd", point, tmp_path, code_environment=str(tmp_path / "theirs.toml"))
    same = replace(odd, revision="1" * 40, num_layers_to_keep=5, environments=())  # `run` is told which one
    assert load_models(registry) == {"odd": replace(same, code_environment=str(tmp_path / "theirs.toml"))}
