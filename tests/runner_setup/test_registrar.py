"""The registrar against a stateful GitHub: real signatures, real HTTP, a real socket."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hub_runner.interfaces import RegistrarRefusedError, RegistrarUnavailableError
from hub_runner.registrar import RegistrarClient, RegistrarService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_runner.config import Config
    from tests.runner_setup.fake_runners_api import FakeGitHub

NAME = "host-a-1-0a1b2c3d"


@contextmanager
def listening(service: RegistrarService, path: Path) -> Iterator[RegistrarClient]:
    """What systemd does: a socket, and the service once for each connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                with connection, connection.makefile("rw") as stream:
                    if not (line := stream.readline()):
                        return
                    stream.write(service.serve(line) + "\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield RegistrarClient(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(path))
        thread.join()


@pytest.fixture
def service(config: Config, app_key: Path) -> RegistrarService:
    return RegistrarService(config, app_key)


@pytest.fixture
def client(service: RegistrarService, tmp_path: Path) -> Iterator[RegistrarClient]:
    with listening(service, tmp_path / "registrar.sock") as client:
        yield client


def test_a_runner_has_its_slots_labels_and_the_token_the_least_rights(
    client: RegistrarClient, github: FakeGitHub
) -> None:
    jit = client.register(1, NAME)
    assert "config" not in repr(jit)
    assert jit.config
    runner = github.runners[jit.runner_id]
    assert (runner["name"], runner["runner_group_id"]) == (NAME, 1)
    labels = [label["name"] for label in runner["labels"]]
    assert labels == ["self-hosted", "linux", "x64", "hub-tests", "h100", "gpus-2"]
    assert github.scopes == [{"permissions": {"administration": "write"}, "repositories": ["repo"]}]
    assert client.find_runner(NAME) == jit.runner_id


@pytest.mark.parametrize("name", ["other-1-0a1b2c3d", "host-a-0-0a1b2c3d", "host-a-1-0a1b2c3d\n", "host-a-1-XYZ", ""])
def test_a_name_that_is_not_the_slots_is_refused(client: RegistrarClient, github: FakeGitHub, name: str) -> None:
    with pytest.raises(RegistrarRefusedError):
        client.register(1, name)
    assert github.runners == {}


def test_a_slot_that_is_not_there_is_refused(client: RegistrarClient) -> None:
    with pytest.raises(RegistrarRefusedError, match="no slot 3"):
        client.register(3, "host-a-3-0a1b2c3d")


def test_removing_is_gentle(client: RegistrarClient, github: FakeGitHub) -> None:
    jit = client.register(1, NAME)
    github.runners[jit.runner_id]["busy"] = True
    assert client.remove_runner(jit.runner_id) == "busy"
    github.runners[jit.runner_id]["busy"] = False
    assert client.remove_runner(jit.runner_id) == "removed"
    assert client.remove_runner(jit.runner_id) == "removed"
    assert client.find_runner(NAME) is None


def test_another_hosts_runner_is_never_removed(client: RegistrarClient, github: FakeGitHub) -> None:
    jit = client.register(1, NAME)
    github.runners[jit.runner_id]["name"] = "host-a-b-1-0a1b2c3d"
    with pytest.raises(RegistrarRefusedError, match="not of host-a"):
        client.remove_runner(jit.runner_id)
    assert client.list_runners() == ()
    assert jit.runner_id in github.runners


def test_the_list_is_whole_and_only_this_hosts(client: RegistrarClient, github: FakeGitHub) -> None:
    names = [f"host-a-0-{number:08x}" for number in range(105)]
    ids = [registered(github, name) for name in [*names, "other-0-00000000"]]
    github.runners[ids[1]]["status"] = "online"
    listed = client.list_runners()
    assert [each.name for each in listed] == names
    assert [each.online for each in listed] == [False, True] + 103 * [False]


def registered(github: FakeGitHub, name: str) -> int:
    body = github.jit({"name": name, "labels": ["x"], "runner_group_id": 1}, {})[1]
    return int(body["runner"]["id"])


def test_github_away_may_have_acted(client: RegistrarClient, github: FakeGitHub) -> None:
    github.down = True
    with pytest.raises(RegistrarUnavailableError):
        client.register(1, NAME)
    github.down, github.lost = False, True
    with pytest.raises(RegistrarUnavailableError):
        client.register(1, NAME)
    github.lost = False
    assert client.find_runner(NAME) is not None  # which is why the supervisor looks for it by name


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, RegistrarUnavailableError),
        (429, RegistrarUnavailableError),
        (403, RegistrarRefusedError),
        (422, RegistrarRefusedError),
    ],
)
def test_only_what_may_pass_is_worth_asking_again(
    client: RegistrarClient, github: FakeGitHub, status: int, error: type[Exception]
) -> None:
    github.refuse = {"generate-jitconfig": status}
    with pytest.raises(error, match="refused by the test"):
        client.register(1, NAME)


def test_a_key_that_github_does_not_know_is_refused(
    config: Config, github: FakeGitHub, tmp_path: Path, app_key: Path
) -> None:
    with (
        listening(RegistrarService(config, tmp_path / "none.pem"), tmp_path / "s") as client,
        pytest.raises(RegistrarRefusedError, match="openssl could not sign"),
    ):
        client.register(1, NAME)
    other = replace(config, github=replace(config.github, app_id="999"))
    with (
        listening(RegistrarService(other, app_key), tmp_path / "t") as client,
        pytest.raises(RegistrarRefusedError, match="401"),
    ):
        client.register(1, NAME)


def test_a_clock_that_is_off_is_named(
    service: RegistrarService, monkeypatch: pytest.MonkeyPatch, github: FakeGitHub
) -> None:
    monkeypatch.setattr("hub_runner.github.time", SimpleNamespace(time=lambda: 4e9))
    github.refuse = {"access_tokens": 401}
    assert "s off GitHub's" in service.serve(json.dumps({"op": "jit", "slot": 1, "name": NAME}))


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "{}", '{"op": "eval"}', '{"op": "jit"}', '{"op": "find", "name": 1, "x": 2}', "null"]
)
def test_nonsense_on_the_socket_is_refused_in_one_line(service: RegistrarService, line: str) -> None:
    assert set(json.loads(service.serve(line))) == {"refused"}


def test_no_registrar_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(RegistrarUnavailableError):
        RegistrarClient(tmp_path / "none").find_runner(NAME)


def test_one_issue_is_opened_kept_current_and_closed(client: RegistrarClient, github: FakeGitHub) -> None:
    assert client.update_issue("") == "unchanged"
    assert client.update_issue("slot 0: Xid 79") == "opened"
    assert client.update_issue("slot 0: Xid 79") == "unchanged"
    assert client.update_issue("slot 0: Xid 79\nslot 1: disk") == "updated"
    (issue,) = github.issues.values()
    assert "slot 1: disk" in issue["body"]
    assert client.update_issue("") == "closed"
    assert issue["state"] == "closed"
    assert client.update_issue("slot 0: again") == "opened"
    assert github.scopes[-1]["permissions"] == {"issues": "write"}


def test_somebody_elses_issue_with_our_marker_is_left_alone(client: RegistrarClient, github: FakeGitHub) -> None:
    client.update_issue("slot 0: Xid 79")
    (issue,) = github.issues.values()
    issue["performed_via_github_app"] = None
    assert client.update_issue("") == "unchanged"
    assert issue["state"] == "open"


def test_an_organizations_runners_live_under_the_organization(
    config: Config, github: FakeGitHub, app_key: Path
) -> None:
    github_of = replace(config.github, repository="", organization="org", status_issue=False)
    answer = json.loads(
        RegistrarService(replace(config, github=github_of), app_key).serve(
            json.dumps({"op": "jit", "slot": 1, "name": NAME})
        )
    )
    assert answer["ok"]["runner_id"] in github.runners
    assert github.scopes[-1] == {"permissions": {"organization_self_hosted_runners": "write"}}
    assert any("/orgs/org/" in call for call in github.calls)
