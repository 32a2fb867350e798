"""Retrying: how often, how long, and what ends it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.remote import HubClient
from ci.hub.responses import TransientError
from ci.hub.retry import RetryPolicy, RetryState
from tests.ci.hub.samples import BIG, MODEL
from tests.standin.wire import Fault, FaultKind

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer

SHARD = "model-00001-of-00003.safetensors"


@pytest.mark.parametrize("kind", ["drop", "cut"])
def test_retries_end(hub: HubServer, client: HubClient, commit: str, kind: FaultKind) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault(kind, origin="cdn", times=None))
    with pytest.raises(InfrastructureError, match="4 times in a row") as failed:
        client.read_range(listing, SHARD, 0, 100)
    assert "\n" not in str(failed.value)
    assert len(hub.requests("cdn")) == 4


def test_progress_resets_the_count_of_failures(hub: HubServer, big: bytes, client: HubClient, commit: str) -> None:
    """A slow line finishes, and a server that sends nothing ends in an error."""
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("reset", amount=500_000, origin="cdn", times=9))
    assert client.read_range(listing, BIG, 0, len(big)) == big


@pytest.mark.parametrize(
    ("headers", "at_least"),
    [({"Retry-After": "1"}, 1.0), ({"RateLimit": '"resolvers";r=0;t=0'}, 1.0), ({"Retry-After": "Wed, 21 Oct"}, 0.0)],
)
def test_told_waits_are_kept(
    hub: HubServer,
    client: HubClient,
    commit: str,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    at_least: float,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client, "sleep", waits.append)
    hub.faults.inject(Fault("status", status=429, headers=headers))
    client.get_repository(MODEL, None)
    assert len(waits) == 1
    assert at_least <= waits[0] <= 1.5 * max(at_least, 0.02)


def test_waits_grow_with_jitter(
    hub: HubServer, client: HubClient, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client, "sleep", waits.append)
    hub.faults.inject(Fault("status", status=503, times=3))
    client.get_repository(MODEL, None)
    for wait, least in zip(waits, (0.01, 0.02, 0.02), strict=True):
        assert least <= wait <= 1.5 * least


def test_no_hub_there(settings: Settings) -> None:
    with pytest.raises(InfrastructureError, match=r"owner/model: .*4 times in a row; check the network to http"):
        HubClient(replace(settings, endpoint="http://127.0.0.1:9")).get_repository(MODEL, None)


def test_a_failure_after_progress_counts_anew() -> None:
    waits: list[float] = []
    retry = RetryState(RetryPolicy(tries=3, first=1.0, longest=3.0), waits.append, what="x", endpoint="http://hub")
    for _ in range(5):
        retry.wait_or_raise(OSError("broken"))
        retry.wait_or_raise(OSError("broken"))
        retry.reset()
    assert all(first <= wait <= 1.5 * first for wait, first in zip(waits, [1.0, 2.0] * 5, strict=True))
    retry.wait_or_raise(TransientError("told", wait=7.0))
    assert 7.0 <= waits[-1] <= 10.5
    retry.wait_or_raise(OSError())
    with pytest.raises(InfrastructureError, match="x: OSError, 3 times in a row; check the network to http://hub"):
        retry.wait_or_raise(OSError())
