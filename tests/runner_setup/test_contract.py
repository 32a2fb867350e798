"""What the registrar asks, and what our GitHub answers, held against GitHub's own description by Prism."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hub_runner.config_file import parse_config
from hub_runner.registrar import RegistrarClient, RegistrarService
from hub_runner.update import fetch_newest_release
from tests.e2e import openapi
from tests.e2e.contract import missing, proxied
from tests.runner_setup.conftest import config_text
from tests.runner_setup.fake_runners_api import FakeGitHub
from tests.runner_setup.simulation import Killed, Simulation, advance_until, make_state_machine, unfit
from tests.runner_setup.test_update import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_runner.interfaces import JitRunner
    from hub_runner.layout import Layout
    from hub_runner.state_machine import SlotStateMachine
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


class ThroughPrism(RegistrarClient):
    """The supervisor's side, with the registrar asked directly instead of through its socket."""

    def __init__(self, service: RegistrarService) -> None:
        self.service = service

    def _exchange(self, line: bytes) -> bytes:
        return self.service.serve(line.decode()).encode()


class Guarded:
    """The fake, and the Prism that guards it."""

    def __init__(self, fake: FakeGitHub, prism: Prism, key: Path) -> None:
        self.fake, self.url, self.violations = fake, prism.url, prism.violations
        self.service = RegistrarService(parse_config(config_text(prism.url), what="x"), key)

    def ask(self, **request: Any) -> Any:
        return json.loads(self.service.serve(json.dumps(request)))


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
    assert fetch_newest_release(guarded.url, "x64").version == "2.336.0"
    assert guarded.violations() == []


def test_a_request_that_breaks_the_contract_is_noticed(guarded: Guarded) -> None:
    """The check can fail: GitHub wants at least one label."""
    wish = {"name": NAME, "runner_group_id": 1, "labels": []}
    answer = guarded.service.app.request(
        "POST", f"{guarded.service.runners}/generate-jitconfig", "x", wish, accept=(422,)
    )
    assert answer.status == 422
    assert guarded.violations()
    assert "generate-jitconfig" not in "".join(guarded.fake.calls[-1:])


# The supervisor behind the contract ---------------------------------------------------------------------------------


@pytest.fixture
def simulation(guarded: Guarded) -> Simulation:
    """A machine whose runners are those of the guarded GitHub."""
    guarded.fake.runners.clear()
    guarded.violations()
    simulation = Simulation()
    simulation.registered = guarded.fake.runners
    return simulation


@pytest.fixture
def slot(guarded: Guarded, simulation: Simulation, layout: Layout) -> SlotStateMachine:
    return supervised(guarded, simulation, layout)


def supervised(guarded: Guarded, simulation: Simulation, layout: Layout) -> SlotStateMachine:
    kept = make_state_machine(guarded.service.config, layout, simulation)
    kept.registrar = Killable(simulation, ThroughPrism(guarded.service))
    return kept


class Killable:
    """GitHub's answers as effects before and after which the supervisor can be killed."""

    def __init__(self, simulation: Simulation, registrar: RegistrarClient) -> None:
        self.simulation, self.registrar = simulation, registrar

    def register(self, slot: int, name: str) -> JitRunner:
        answer: JitRunner = self.simulation.effect(lambda: self.registrar.register(slot, name))
        return answer

    def find_runner(self, name: str) -> int | None:
        return self.registrar.find_runner(name)

    def remove_runner(self, runner_id: int) -> Literal["removed", "busy"]:
        answer: Literal["removed", "busy"] = self.simulation.effect(lambda: self.registrar.remove_runner(runner_id))
        return answer


def test_jobs_one_after_another(slot: SlotStateMachine, simulation: Simulation, guarded: Guarded) -> None:
    for job in range(2):
        advance_until(slot, simulation, "running")
        assert len(guarded.fake.runners) == 1
        simulation.time += 60
        simulation.end_job()
        assert advance_until(slot, simulation, "free").jobs == job + 1
    assert guarded.violations() == []


def test_a_sick_slot_asks_github_for_nothing(slot: SlotStateMachine, simulation: Simulation, guarded: Guarded) -> None:
    simulation.diagnosis = unfit("gpu0 Xid 79")
    before = len(guarded.fake.calls)
    advance_until(slot, simulation, "quarantined")
    assert len(guarded.fake.calls) == before


@pytest.mark.parametrize("fault", ["down", "lost"])
def test_an_outage_ends_with_one_runner(
    slot: SlotStateMachine, simulation: Simulation, guarded: Guarded, fault: str
) -> None:
    setattr(guarded.fake, fault, True)
    advance_until(slot, simulation, "registering", steps=1)
    setattr(guarded.fake, fault, False)
    advance_until(slot, simulation, "running")
    assert list(guarded.fake.runners) == [simulation.runner]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_step_it_leaves_one_runner(
    guarded: Guarded, simulation: Simulation, layout: Layout, when: Literal["before", "after"]
) -> None:
    whole = supervised(guarded, simulation, layout)
    advance_until(whole, simulation, "running")
    for number in range(1, simulation.effects + 1):
        guarded.fake.runners.clear()
        killed = Simulation(kill_at=(number, when), registered=guarded.fake.runners)
        whole.state_file.path.unlink()
        with suppress(Killed):
            advance_until(supervised(guarded, killed, layout), killed, "running")
        advance_until(supervised(guarded, killed, layout), killed, "running")
        assert list(guarded.fake.runners) == [killed.runner], f"killed {when} effect {number}"
    assert guarded.violations() == []


def test_a_clock_that_jumps_offers_nothing_and_says_why(
    slot: SlotStateMachine, simulation: Simulation, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_runner.github.time", SimpleNamespace(time=lambda: time.time() + 7200))
    slot.advance()
    state = slot.state_file.read()
    assert (state.phase, guarded.fake.runners) == ("free", {})
    assert "401" in state.reason
    monkeypatch.undo()
    advance_until(slot, simulation, "running")
