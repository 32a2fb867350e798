"""The command line: exit codes, one-line errors, and help for every verb."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer

from hub_runner import __main__ as cli
from tests.runner_setup.test_install import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("verb", [("bogus",), ("drain", "7"), ("doctor", "--slot", "9")])
def test_a_wrong_request_is_one_line_and_exit_code_2(
    verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *verb) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_drain_status_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "var/lib/hub-runner/state").mkdir(parents=True)
    assert run(tmp_path, "drain", "1", "--wait", "--reason", "new card") == 0
    assert run(tmp_path, "status", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["drained"] for row in rows] == [False, True, False]
    page = tmp_path / "var/lib/hub-runner/state/slot-0.json"
    page.write_text('{"phase": "quarantined", "reason": "xid: gpu0 Xid 79"}')
    assert run(tmp_path, "status") == 3
    assert "Xid 79" in capsys.readouterr().out
    assert run(tmp_path, "resume") == 0
    assert run(tmp_path, "status", "--json") == 3
    assert [row["drained"] for row in json.loads(capsys.readouterr().out)] == [False, False, False]


def test_every_verb_and_every_option_has_help() -> None:
    command = typer.main.get_command(cli.app)
    verbs = command.commands  # type: ignore[attr-defined]
    assert {"render", "check", "install", "status", "drain", "resume", "update", "janitor", "doctor"} <= set(verbs)
    for name, verb in verbs.items():
        assert verb.help, name
        for parameter in verb.params:
            assert parameter.name == "help" or getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_what_only_root_may_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/etc/hub-runner")

    monkeypatch.setattr(cli, "app", refuse)
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort])
def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]) -> None:
    def interrupted(**_: object) -> None:
        raise stop

    monkeypatch.setattr(cli, "app", interrupted)
    assert cli.main(["check"]) == 130
