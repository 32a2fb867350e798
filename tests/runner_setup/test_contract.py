"""What the minting unit asks, and what our GitHub answers, held against GitHub's own description by Prism."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hub_runner.config import parse
from hub_runner.mint import MintClient, Minter
from hub_runner.update import newest
from tests.e2e import openapi
from tests.e2e.contract import missing, proxied
from tests.runner_setup.conftest import config_text
from tests.runner_setup.fake_runners_api import FakeGitHub
from tests.runner_setup.test_update import publish
from tests.runner_setup.worlds import Killed, World, keeper, sick, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_runner.cycle import Keeper
    from hub_runner.layout import Layout
    from hub_runner.outside import Jit
    from tests.e2e.contract import Prism

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("runner-contract")]

RUNNERS = "/repos/{owner}/{repo}/actions/runners"
ISSUES = "/repos/{owner}/{repo}/issues"
CALLED = {
    "/app/installations/{installation_id}/access_tokens": ("post",),
    RUNNERS: ("get",),
    f"{RUNNERS}/{{runner_id}}": ("get", "delete"),
    f"{RUNNERS}/generate-jitconfig": ("post",),
    "/orgs/{org}/actions/runners/generate-jitconfig": ("post",),
    ISSUES: ("get", "post"),
    f"{ISSUES}/{{issue_number}}": ("patch",),
    "/repos/{owner}/{repo}/releases/latest": ("get",),
}
NAME = "host-a-0-0a1b2c3d"


class ThroughPrism(MintClient):
    """The supervisor's side, with the minting unit asked directly instead of through its socket."""

    def __init__(self, minter: Minter) -> None:
        self.minter = minter

    def _exchange(self, line: bytes) -> bytes:
        return self.minter.serve(line.decode()).encode()


class Guarded:
    """The fake, and the Prism that guards it."""

    def __init__(self, fake: FakeGitHub, prism: Prism, key: Path) -> None:
        self.fake, self.url, self.violations = fake, prism.url, prism.violations
        self.minter = Minter(parse(config_text(prism.url), what="x"), key)

    def ask(self, **request: Any) -> Any:
        return json.loads(self.minter.serve(json.dumps(request)))


@pytest.fixture(scope="module")
def guarded(app_key: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("prism")
    fake = FakeGitHub(app_key)
    with fake.serving() as upstream, proxied(openapi.load(CALLED), upstream, folder) as prism:
        yield Guarded(fake, prism, app_key)


def test_every_call_and_every_answer_keeps_the_contract(guarded: Guarded) -> None:
    jit = guarded.ask(op="jit", slot=0, name=NAME)["ok"]
    assert guarded.ask(op="find", name=NAME) == {"ok": jit["runner_id"]}
    assert [each["name"] for each in guarded.ask(op="list")["ok"]] == [NAME]
    guarded.fake.busy = True
    assert guarded.ask(op="remove", runner_id=jit["runner_id"]) == {"ok": "busy"}
    guarded.fake.busy = False
    assert guarded.ask(op="remove", runner_id=jit["runner_id"]) == {"ok": "removed"}
    assert guarded.ask(op="remove", runner_id=jit["runner_id"]) == {"ok": "removed"}
    done = [guarded.ask(op="report", text=text)["ok"] for text in ("slot 0: Xid 79", "slot 0: disk", "")]
    assert done == ["opened", "updated", "closed"]
    publish(guarded.fake, "2.336.0")
    latest = "/repos/{owner}/{repo}/releases/latest"
    guarded.fake.releases = openapi.Answers(openapi.load(CALLED)).whole(latest, "get", 200, guarded.fake.releases)
    assert newest(guarded.url, "x64").version == "2.336.0"
    assert guarded.violations() == []


def test_a_request_that_breaks_the_contract_is_noticed(guarded: Guarded) -> None:
    """The check can fail: GitHub wants at least one label."""
    wish = {"name": NAME, "runner_group_id": 1, "labels": []}
    answer = guarded.minter.app.call("POST", f"{guarded.minter.runners}/generate-jitconfig", "x", wish, accept=(422,))
    assert answer.status == 422
    assert guarded.violations()
    assert "generate-jitconfig" not in "".join(guarded.fake.calls[-1:])


# The supervisor behind the contract ---------------------------------------------------------------------------------


@pytest.fixture
def world(guarded: Guarded) -> World:
    """A machine whose runners are those of the guarded GitHub."""
    guarded.fake.runners.clear()
    guarded.violations()
    world = World()
    world.registered = guarded.fake.runners
    return world


@pytest.fixture
def slot(guarded: Guarded, world: World, layout: Layout) -> Keeper:
    return supervised(guarded, world, layout)


def supervised(guarded: Guarded, world: World, layout: Layout) -> Keeper:
    kept = keeper(guarded.minter.config, layout, world)
    kept.mint = Killable(world, ThroughPrism(guarded.minter))
    return kept


class Killable:
    """GitHub's answers as effects before and after which the supervisor can be killed."""

    def __init__(self, world: World, mint: MintClient) -> None:
        self.world, self.mint = world, mint

    def jit(self, slot: int, name: str) -> Jit:
        answer: Jit = self.world.effect(lambda: self.mint.jit(slot, name))
        return answer

    def find(self, name: str) -> int | None:
        return self.mint.find(name)

    def remove(self, runner_id: int) -> Literal["removed", "busy"]:
        answer: Literal["removed", "busy"] = self.world.effect(lambda: self.mint.remove(runner_id))
        return answer


def test_jobs_one_after_another(slot: Keeper, world: World, guarded: Guarded) -> None:
    for job in range(2):
        until(slot, world, "running")
        assert len(guarded.fake.runners) == 1
        world.time += 60
        world.end_job()
        assert until(slot, world, "free").jobs == job + 1
    assert guarded.violations() == []


def test_a_sick_slot_asks_github_for_nothing(slot: Keeper, world: World, guarded: Guarded) -> None:
    world.diagnosis = sick("gpu0 Xid 79")
    before = len(guarded.fake.calls)
    until(slot, world, "quarantined")
    assert len(guarded.fake.calls) == before


@pytest.mark.parametrize("fault", ["down", "lost"])
def test_an_outage_ends_with_one_runner(slot: Keeper, world: World, guarded: Guarded, fault: str) -> None:
    setattr(guarded.fake, fault, True)
    until(slot, world, "minting", steps=1)
    setattr(guarded.fake, fault, False)
    until(slot, world, "running")
    assert list(guarded.fake.runners) == [world.runner]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_step_it_leaves_one_runner(
    guarded: Guarded, world: World, layout: Layout, when: Literal["before", "after"]
) -> None:
    whole = supervised(guarded, world, layout)
    until(whole, world, "running")
    for number in range(1, world.effects + 1):
        guarded.fake.runners.clear()
        killed = World(kill_at=(number, when), registered=guarded.fake.runners)
        whole.book.page.unlink()
        with suppress(Killed):
            until(supervised(guarded, killed, layout), killed, "running")
        until(supervised(guarded, killed, layout), killed, "running")
        assert list(guarded.fake.runners) == [killed.runner], f"killed {when} effect {number}"
    assert guarded.violations() == []


def test_a_clock_that_jumps_offers_nothing_and_says_why(
    slot: Keeper, world: World, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_runner.github.time", SimpleNamespace(time=lambda: time.time() + 7200))
    slot.advance()
    state = slot.book.read()
    assert (state.phase, guarded.fake.runners) == ("free", {})
    assert "401" in state.reason
    monkeypatch.undo()
    until(slot, world, "running")
