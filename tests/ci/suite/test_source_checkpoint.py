import os
from dataclasses import replace
from pathlib import Path

import pytest

from ci.checkpoints import make_fetch_request
from ci.errors import GatedError
from ci.hub.fetch import fetch
from ci.settings import Settings
from ci.suite import source_checkpoint
from ci.suite.cached_step import StepFailedError
from ci.suite.failure_class import classify_failure
from ci.suite.source_checkpoint import SourceCheckpoint
from tests.ci.suite.samples import CHECKPOINT, MODEL, make_run
from tests.standin.models import repository
from tests.standin.server import HubServer


def test_what_the_fetch_could_not_have_is_not_asked_for_again(tmp_path: Path) -> None:
    source = SourceCheckpoint(make_run(tmp_path), GatedError("tiny is gated"))
    with pytest.raises(StepFailedError, match="tiny is gated"):
        source.fetch()


def test_a_model_with_code_of_its_own_is_refused_whatever_was_fetched(tmp_path: Path) -> None:
    run = make_run(tmp_path, replace(MODEL, trust_remote_code=True))
    for fetched in (None, CHECKPOINT):
        source = SourceCheckpoint(run, fetched)
        with pytest.raises(StepFailedError, match="trust_remote_code") as refused:
            source.fetch()
        assert classify_failure(refused.value) == "remote_code"


def test_a_checkpoint_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_checkpoint, "fetch", lambda *_, **__: replace(CHECKPOINT, manifest_sha256="b" * 64))
    with pytest.raises(StepFailedError, match="is not the one that was fetched for this run"):
        SourceCheckpoint(make_run(tmp_path), CHECKPOINT).fetch()


@pytest.mark.parametrize("restored", [False, True])
def test_what_was_admitted_earlier_is_hashed_again_where_others_may_write(
    hub: HubServer, tmp_path: Path, restored: bool
) -> None:
    """`--checkpoints` names what another job fetched: names, sizes and times prove nothing about it."""
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, repository("stand-in/llama"))
    fetched = fetch(make_fetch_request(MODEL), settings)
    weights = Path(fetched.path) / "model.safetensors"
    before, content = weights.stat(), bytearray(weights.read_bytes())
    settings.cache.chmod(0o777)
    content[-1] ^= 0 if restored else 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    source = SourceCheckpoint(make_run(tmp_path, settings=replace(settings, offline=True)), fetched)
    if restored:
        assert source.fetch().manifest_sha256 == fetched.manifest_sha256
        return
    with pytest.raises(StepFailedError, match="HF_HUB_OFFLINE is set"):
        source.fetch()
    assert not weights.exists(), "what is damaged is set aside"


def test_an_early_fetch_is_found_only_where_its_directory_is(tmp_path: Path) -> None:
    run, there = make_run(tmp_path), replace(CHECKPOINT, path=str(tmp_path))
    assert SourceCheckpoint(run, there).find_early() == tmp_path
    assert SourceCheckpoint(run, CHECKPOINT).find_early() is None
    assert SourceCheckpoint(run, GatedError("gated")).find_early() is None
