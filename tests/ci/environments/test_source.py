"""A subject's code: from a directory with its commit, or cloned from an address without running anything of it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ci.environments.source import fetch_source, is_git_address, pin_address, split_address
from ci.errors import InfrastructureError, RequestError
from ci.subjects.provenance import read_commit
from tests.intercepting_proxy import InterceptingProxy

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(checkout: Path, *words: str) -> str:
    command = ["git", "-C", str(checkout), *words]
    return subprocess.run(
        command, env={**os.environ, **IDENTITY}, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with two commits."""
    repository = tmp_path / "origin"
    repository.mkdir()
    git(repository, "init", "--quiet")
    for content in ("one", "two"):
        (repository / "file").write_text(content)
        git(repository, "add", "file")
        git(repository, "commit", "--quiet", "-m", content)
    return repository


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://host/owner/name", ("https://host/owner/name", "")),
        ("https://host/owner/name@abc", ("https://host/owner/name", "abc")),
        ("git+https://user@host/owner/name.git@feature/x", ("https://user@host/owner/name.git", "feature/x")),
    ],
)
def test_an_address_is_split_from_its_commit(source: str, expected: tuple[str, str]) -> None:
    assert is_git_address(source)
    assert split_address(source) == expected


@pytest.mark.parametrize(
    "source",
    ["ext::sh -c evil://x", "https://host/name@--upload-pack=evil", "https://[host/name", "https://host/name@a\x1bb"],
)
def test_what_git_could_take_for_a_command_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match="expected an address"):
        split_address(source)


def test_an_address_mapped_to_a_local_clone_is_fetched_at_its_commit(origin: Path, tmp_path: Path) -> None:
    first = git(origin, "rev-parse", "HEAD~1")
    mapped = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://host/subject",
    }
    source = fetch_source(f"https://host/subject@{first}", tmp_path / "clone", {**os.environ, **mapped})
    assert source.commit == first
    assert (source.path / "file").read_text() == "one"


def test_a_clone_runs_no_hook(origin: Path, tmp_path: Path) -> None:
    template, mark = tmp_path / "template", tmp_path / "ran"
    (template / "hooks").mkdir(parents=True)
    hook = template / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    fetch_source(f"file://{origin}", tmp_path / "clone", {**os.environ, "GIT_TEMPLATE_DIR": str(template)})
    assert not mark.exists()


def test_a_missing_commit_is_named(origin: Path, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="nowhere"):
        fetch_source(f"file://{origin}@nowhere", tmp_path / "clone", os.environ)


def test_a_changed_checkout_says_so(origin: Path, tmp_path: Path) -> None:
    head = git(origin, "rev-parse", "HEAD")
    assert read_commit(origin, os.environ) == head
    (origin / "file").write_text("changed")
    assert read_commit(origin, os.environ) == f"{head}-dirty"
    assert read_commit(tmp_path, os.environ) is None


def test_an_address_is_named_at_the_commit_that_was_fetched() -> None:
    commit = "0123456789" * 4
    assert pin_address("https://host/owner/name", commit) == f"https://host/owner/name@{commit}"
    assert pin_address("git+https://host/owner/name@main", commit) == f"https://host/owner/name@{commit}"
    for other in (None, f"{commit}-dirty", "main"):
        assert pin_address("https://host/owner/name@main", other) == "https://host/owner/name@main"
    assert pin_address("./checkout", commit) == "./checkout"


def test_a_server_behind_a_proxy_with_a_private_authority_is_cloned(origin: Path, tmp_path: Path) -> None:
    """Git's plain protocol: https://git-scm.com/docs/http-protocol, "Dumb clients"."""
    git(origin, "update-server-info")
    folder = origin / ".git"

    def answer(_host: str, path: str) -> tuple[int, dict[str, str], bytes]:
        file = folder / path.removeprefix("/owner/name/")
        return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, b"")

    address = "https://ghe.example/owner/name"
    with InterceptingProxy(tmp_path, ("ghe.example",), answer) as proxy:
        fetched = fetch_source(address, tmp_path / "new", proxy.trusting)
        assert (fetched.path / "file").read_text() == "two"
        asked = len(proxy.asked)
        with pytest.raises(InfrastructureError, match="certificate"):
            fetch_source(address, tmp_path / "untrusted", proxy.environ)
        around = {**proxy.trusting, "NO_PROXY": "ghe.example", "no_proxy": "ghe.example"}
        with pytest.raises(InfrastructureError, match="resolve"):
            fetch_source(address, tmp_path / "around", around)
        assert len(proxy.asked) == asked


def test_every_name_of_a_commit_is_found(origin: Path, tmp_path: Path) -> None:
    """A clone has a local branch for the default one alone, and nothing of refs/pull."""
    first, last = git(origin, "rev-parse", "HEAD~1"), git(origin, "rev-parse", "HEAD")
    git(origin, "branch", "feature/x", first)
    git(origin, "tag", "-a", "-m", "annotated", "v1", first)
    git(origin, "branch", "both", first)
    git(origin, "tag", "both", last)
    git(origin, "update-ref", "refs/pull/7/head", first)
    names = ["feature/x", "refs/heads/feature/x", "v1", "both", first, first[:7], "refs/pull/7/head"]
    for number, name in enumerate(names):
        found = fetch_source(f"{origin.as_uri()}@{name}", tmp_path / str(number), os.environ)
        assert found.commit == first, name


@pytest.mark.parametrize("name", ["nope", "file", "0" * 40, "HEAD:nope", "+HEAD:nope", "a" * 300])
def test_a_name_that_is_no_commit_is_said(name: str, origin: Path, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="no branch, tag or commit '") as refused:
        fetch_source(f"{origin.as_uri()}@{name}", tmp_path / "clone", os.environ)
    assert "\n" not in str(refused.value)


def test_an_address_without_a_repository_says_so(tmp_path: Path) -> None:
    """git's last line is advice."""
    with pytest.raises(InfrastructureError, match=r"git clone: fatal: .* does not "):
        fetch_source((tmp_path / "nowhere").as_uri(), tmp_path / "clone", os.environ)
