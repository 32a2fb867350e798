"""The verb `bisect`: what it refuses before anything is run, and what it prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ci import __main__ as cli
from ci.bisect.probe import RunProbe
from ci.bisect.session import Probed
from tests.ci.bisect.history import write_history

if TYPE_CHECKING:
    from pathlib import Path

ENDS = ("--good", "a", "--bad", "b")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["smollm2", *ENDS], "bisect over commits needs --subject-source"),
        (["smollm2", *ENDS, "--over", "transformers"], "bisect over transformers needs --environment"),
        (["smollm2", *ENDS, "--over", "../x"], "expected commits, hub or the name of a package"),
        (["smollm2", *ENDS, "--over", "hub", "--checkpoints", "x"], "leave --checkpoints out"),
        (["mistral*", *ENDS], "bisect takes one model, 'mistral*' selects 2"),
        (["smollm", *ENDS], "Did you mean 'smollm2'?"),
        (["smollm2", "--good", "a"], "Missing option '--bad'"),
    ],
)
def test_a_wrong_request_ends_before_a_run(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bisect", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_the_first_bad_commit_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = write_history(tmp_path / "subject", 9, 4)
    bad = frozenset(commits[4:])
    monkeypatch.setattr(
        RunProbe, "__call__", lambda _, commit: Probed("bad", ("test_x",)) if commit in bad else Probed("good")
    )
    words = ["bisect", "smollm2", "--good", commits[0], "--bad", "main", "--subject-source", str(tmp_path / "subject")]
    words += ["--state", str(tmp_path / "state")]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"first bad: {commits[4][:12]} ")
    assert out.endswith(f"8 candidates, 4 runs of at most 4\nReports: {tmp_path / 'state'}\n")
    assert err.count("hub-tests: run ") == 4
    assert cli.main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["runs"]) == 4
    assert "hub-tests: run " not in err, "the answers were kept"
