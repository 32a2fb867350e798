"""What the minting unit asks, and what our GitHub answers, held against GitHub's own description by Prism."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hub_runner.config import parse
from hub_runner.mint import Minter
from hub_runner.update import newest
from tests.e2e import openapi
from tests.e2e.contract import missing, proxied, violations
from tests.runner_setup.conftest import config_text
from tests.runner_setup.fake_runners_api import FakeGitHub
from tests.runner_setup.test_update import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("runner-contract")

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


class Guarded:
    """The fake, the address at which Prism guards it, and what Prism said."""

    def __init__(self, fake: FakeGitHub, url: str, log: Path, key: Path) -> None:
        self.fake, self.url, self.log = fake, url, log
        self.minter = Minter(parse(config_text(url), what="x"), key)

    def ask(self, **request: Any) -> Any:
        return json.loads(self.minter.serve(json.dumps(request)))


@pytest.fixture(scope="module")
def guarded(app_key: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("prism")
    fake = FakeGitHub(app_key)
    with fake.serving() as upstream, proxied(openapi.load(CALLED), upstream, folder) as url:
        yield Guarded(fake, url, folder / "prism.log", app_key)


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
    assert violations(guarded.log.read_text()) == []


def test_a_request_that_breaks_the_contract_is_noticed(guarded: Guarded) -> None:
    """The check can fail: GitHub wants at least one label."""
    wish = {"name": NAME, "runner_group_id": 1, "labels": []}
    answer = guarded.minter.app.call("POST", f"{guarded.minter.runners}/generate-jitconfig", "x", wish, accept=(422,))
    assert answer.status == 422
    assert "generate-jitconfig" not in "".join(guarded.fake.calls[-1:])
