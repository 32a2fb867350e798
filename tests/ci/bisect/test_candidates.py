"""Commits between two ends of a real git history, and versions between two versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.bisect import candidates
from ci.bisect.candidates import list_commits, list_revisions, list_versions, open_history
from ci.errors import InfrastructureError, RequestError
from ci.hub.remote import HubClient
from ci.settings import Settings
from tests.ci.bisect.history import run_git, write_history
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = ["5.23.0", "5.22.0", "5.21.0", "5.21.0rc1", "5.20.1", "5.20.0", "4.57.3"]


def test_commits_follow_the_first_parents(tmp_path: Path) -> None:
    commits = write_history(tmp_path, 6, 3)
    run_git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "checkout", "--quiet", "-b", "side", commits[2])
    run_git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "on the side")
    run_git(tmp_path, "checkout", "--quiet", "main")
    run_git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "merge", "--no-ff", "-qm", "merged", "side")
    listed = list_commits(tmp_path, commits[0], "main", {})
    assert listed[:-1] == tuple(commits[1:])
    assert listed[-1] == run_git(tmp_path, "rev-parse", "main")


def test_wrong_ends_are_refused(tmp_path: Path) -> None:
    commits = write_history(tmp_path, 4, 2)
    with pytest.raises(RequestError, match="must be an ancestor of the bad one"):
        list_commits(tmp_path, commits[3], commits[0], {})
    with pytest.raises(RequestError, match="must be an ancestor of the bad one"):
        list_commits(tmp_path, commits[3], commits[3], {})
    for name in ("gone", "--upload-pack=x", "", "a b"):
        with pytest.raises(RequestError, match="is no commit, branch or tag"):
            list_commits(tmp_path, name, "main", {})


def test_an_address_is_mirrored_once_without_files(tmp_path: Path) -> None:
    commits = write_history(tmp_path / "upstream", 5, 2)
    mirror = tmp_path / "mirror.git"
    address = f"{(tmp_path / 'upstream').as_uri()}@main"
    for _ in range(2):
        assert open_history(address, mirror, {}) == mirror
    assert list_commits(mirror, commits[1][:10], "main", {}) == tuple(commits[2:])
    with pytest.raises(RequestError, match="not a git checkout"):
        open_history(str(tmp_path), mirror, {})


def test_versions_lie_between_the_ends() -> None:
    assert list_versions("transformers", "5.20.0", "5.23.0", {}, known=KNOWN) == (
        "5.20.1",
        "5.21.0",
        "5.22.0",
        "5.23.0",
    )
    assert list_versions("transformers", "5.20.1", "5.21.0rc1", {}, known=KNOWN) == ("5.21.0rc1",)
    for good, bad, said in (
        ("5.23.0", "5.20.0", "must be the older one"),
        ("5.20.0", "6.0", "no such version"),
        ("x y", "5.20.0", "is no version"),
    ):
        with pytest.raises(RequestError, match=said):
            list_versions("transformers", good, bad, {}, known=KNOWN)


@pytest.mark.parametrize(("program", "said"), [("exit 1", "names no version"), ("sleep 600", "did not answer")])
def test_an_index_that_does_not_answer_is_infrastructure(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nexec {program}\n" if "sleep" in program else f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    if "sleep" in program:
        monkeypatch.setattr(candidates, "INDEX_SECONDS", 0.3)
    with pytest.raises(InfrastructureError, match=said):
        list_versions("transformers", "5.20.0", "5.23.0", {})


def test_an_index_is_read_as_pip_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho 'transformers (5.23.0)'\necho 'Available versions: {', '.join(KNOWN)}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    assert list_versions("transformers", "5.22.0", "5.23.0", {}) == ("5.23.0",)


def test_without_pip_the_index_is_asked_through_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where hub-tests is a tool of uv: such an environment has no pip."""
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\necho \"$@\" >'{tmp_path}/asked'\necho 'Available versions: {', '.join(KNOWN)}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(candidates, "find_spec", lambda _: None)
    assert list_versions("transformers", "5.22.0", "5.23.0", {"PATH": str(tmp_path)}) == ("5.23.0",)
    assert (tmp_path / "asked").read_text().startswith("tool run --quiet pip index versions transformers ")
    monkeypatch.setattr(candidates, "find_uv", lambda _: None)
    with pytest.raises(RequestError, match="install pip or uv beside hub-tests"):
        list_versions("transformers", "5.22.0", "5.23.0", {})


def test_revisions_of_a_model_lie_between_the_ends(tmp_path: Path) -> None:
    with HubServer() as hub:
        pushed = []
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "config.json").write_text(str(number))
            pushed.append(hub.add("owner/model", folder))
        hub.catalog.page_size = 2
        hub.catalog.repos["owner/model"].refs["v1"] = pushed[1]
        client = HubClient(Settings(tmp_path / "cache", endpoint=hub.endpoint))
        listed = list_revisions(client, "owner/model", "v1", "main")
        assert [commit.id for commit in listed] == pushed[2:]
        for good, bad in (("main", "v1"), ("main", "main")):
            with pytest.raises(RequestError, match="the good revision of owner/model must be before the bad one"):
                list_revisions(client, "owner/model", good, bad)
        with pytest.raises(RequestError, match="nowhere"):
            list_revisions(client, "owner/model", "nowhere", "main")
