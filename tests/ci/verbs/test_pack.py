"""A private subject's commit goes from one job to another, and nothing else can take its place."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.plan import RunRequest, make_plan
from ci.verbs.admit import read_head_commit
from ci.verbs.pack import pack_subject, unpack_subject
from tests.ci.report import samples
from tests.e2e.act import git

if TYPE_CHECKING:
    from pathlib import Path

    from ci.plan import Plan

PATH = os.environ["PATH"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a history, a program, a link, a hidden file, and attributes that would change an archive."""
    place = tmp_path / "private"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main")
    (place / "old").write_text("gone later")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "--message=first")
    (place / "old").unlink()
    (place / "run.sh").write_text("#!/bin/sh\n")
    (place / "run.sh").chmod(0o755)
    (place / "link").symlink_to("run.sh")
    (place / ".hidden").write_text("kept\n")
    (place / ".gitattributes").write_text("secret export-ignore\n*.txt export-subst\n")
    (place / "secret").write_text("kept too\n")
    (place / "a.txt").write_text("$Format:%H$\n")
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message=second")
    return place


@pytest.fixture
def event(tmp_path: Path) -> Path:
    return write_event(tmp_path, private=True)


def write_event(folder: Path, *, private: bool) -> Path:
    path = folder / "event.json"
    path.write_text(json.dumps({"repository": {"private": private}}))
    return path


def planned(sha: str, subject: str = "org/private") -> Plan:
    request = RunRequest(models=("smollm2",), sha=sha, repository="org/caller", subject_repository=subject)
    return make_plan(request, samples.MODELS)


def head(place: Path) -> str:
    return git(place, "rev-parse", "HEAD")


def test_the_commit_arrives_as_it_was_without_its_history(checkout: Path, event: Path, tmp_path: Path) -> None:
    pack, target, sha = tmp_path / "subject.pack", tmp_path / "subject", head(checkout)
    tree = pack_subject(planned(sha), checkout, pack, event, PATH)
    assert unpack_subject(pack, sha, target, PATH) == tree == git(checkout, "rev-parse", "HEAD^{tree}")
    assert read_head_commit(target, os.environ) == sha
    assert git(target, "status", "--porcelain") == ""
    assert {path.name for path in target.iterdir()} == {path.name for path in checkout.iterdir()}
    assert (target / "run.sh").stat().st_mode & 0o111
    assert (target / "link").is_symlink()
    assert (target / "a.txt").read_text() == "$Format:%H$\n"
    assert git(target, "rev-list", "--count", "HEAD") == "1"


def test_a_checkout_of_the_workflows_depth_is_enough(checkout: Path, event: Path, tmp_path: Path) -> None:
    """actions/checkout fetches one commit."""
    sha, shallow, pack = head(checkout), tmp_path / "shallow", tmp_path / "subject.pack"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{checkout}", str(shallow))
    pack_subject(planned(sha), shallow, pack, event, PATH)
    unpack_subject(pack, sha, tmp_path / "subject", PATH)
    assert read_head_commit(tmp_path / "subject", os.environ) == sha


def test_another_commit_in_its_place_is_refused(checkout: Path, event: Path, tmp_path: Path) -> None:
    sha, pack = head(checkout), tmp_path / "subject.pack"
    (checkout / "run.sh").write_text("#!/bin/sh\necho swapped\n")
    git(checkout, "commit", "--quiet", "--all", "--message=swapped")
    pack_subject(planned(head(checkout)), checkout, pack, event, PATH)
    with pytest.raises(RequestError, match=f"does not hold the planned commit {sha}"):
        unpack_subject(pack, sha, tmp_path / "subject", PATH)
    assert not (tmp_path / "subject/run.sh").exists()


def test_the_commit_without_one_of_its_files_is_refused(checkout: Path, event: Path, tmp_path: Path) -> None:
    """A pack with the right commit and tree, whose file is another one's."""
    sha, pack = head(checkout), tmp_path / "subject.pack"
    names = git(checkout, "rev-list", "--objects", "--no-object-names", "--no-walk", sha).splitlines()
    kept = [name for name in names if name != git(checkout, "rev-parse", "HEAD:run.sh")]
    assert len(kept) == len(names) - 1
    command = ["git", "-C", str(checkout), "pack-objects", "--stdout", "--quiet"]
    done = subprocess.run(command, input="\n".join(kept).encode(), capture_output=True, check=True)
    pack.write_bytes(done.stdout)
    with pytest.raises(RequestError, match="nothing of it was run"):
        unpack_subject(pack, sha, tmp_path / "subject", PATH)


@pytest.mark.parametrize("place", [20, -30, -1])
def test_a_changed_byte_is_refused(checkout: Path, event: Path, tmp_path: Path, place: int) -> None:
    sha, pack = head(checkout), tmp_path / "subject.pack"
    pack_subject(planned(sha), checkout, pack, event, PATH)
    content = bytearray(pack.read_bytes())
    content[place] ^= 1
    pack.write_bytes(content)
    with pytest.raises(RequestError, match="nothing of it was run"):
        unpack_subject(pack, sha, tmp_path / "subject", PATH)


def test_a_commit_that_is_not_there_is_not_packed(checkout: Path, event: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rev-list"):
        pack_subject(planned("1" * 40), checkout, tmp_path / "subject.pack", event, PATH)
    with pytest.raises(InfrastructureError, match="was not handed over"):
        unpack_subject(tmp_path / "subject.pack", "1" * 40, tmp_path / "subject", PATH)


def test_a_public_caller_would_show_it_to_everybody(checkout: Path, tmp_path: Path) -> None:
    pack, sha = tmp_path / "subject.pack", head(checkout)
    with pytest.raises(RequestError, match="org/caller is public"):
        pack_subject(planned(sha), checkout, pack, write_event(tmp_path, private=False), PATH)
    assert not pack.exists()
    (tmp_path / "event.json").write_text("{}")
    with pytest.raises(RequestError, match="org/caller is public"):
        pack_subject(planned(sha), checkout, pack, tmp_path / "event.json", PATH)
    own = planned(sha, subject="Org/Caller")  # its own: whoever may read the artifact may read the repository
    pack_subject(own, checkout, pack, write_event(tmp_path, private=False), PATH)
