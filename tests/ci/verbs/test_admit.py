"""`admit`: another commit than the planned one does not run."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RemoteCodeError, RequestError
from ci.github.job_outputs import FetchOutputs, make_fetch_outputs, verify_checkpoint
from ci.hub.code_manifest import find_code
from ci.hub.fetch import Checkpoint
from ci.hub.remote_code import RemoteCodeStore
from ci.hub.remote_store import RemoteStore
from ci.hub.store import Store
from ci.hub.store_paths import StorePaths
from ci.models import HubModel
from ci.plan import PlannedEnvironment, RunRequest, make_plan
from ci.verbs.admit import (
    admit_code,
    admit_entry,
    copy_planned_checkpoint,
    read_head_commit,
    write_description,
    write_environment,
)
from ci.verbs.fetch import hold_for_run
from tests.ci.hub.checkpoints import KEY, add
from tests.ci.hub.test_code_manifest import COMMIT, MODEL, store_code
from tests.ci.report import samples
from tests.e2e.act import git

if TYPE_CHECKING:
    from pathlib import Path


def test_only_the_planned_commit_is_admitted(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "subject")
    subject = tmp_path / "subject"
    git(subject, "commit", "--quiet", "--allow-empty", "--message=x")
    made = make_plan(RunRequest(models=("smollm2",), sha="1" * 40), samples.MODELS)
    with pytest.raises(RequestError, match=f"is at {git(subject, 'rev-parse', 'HEAD')}, the plan has {'1' * 40}"):
        admit_entry(
            made,
            FetchOutputs({}, {}),
            "smollm2",
            subject=subject,
            store=tmp_path,
            out=tmp_path / "out",
            environ=os.environ,
        )
    with pytest.raises(RequestError, match="not a git checkout"):
        read_head_commit(tmp_path / "nowhere", os.environ)
    assert not (tmp_path / "out").exists()


def test_a_model_with_code_of_its_own_is_not_admitted(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "subject")
    git(tmp_path / "subject", "commit", "--quiet", "--allow-empty", "--message=x")
    models = {"smollm2": replace(samples.MODELS["smollm2"], trust_remote_code=True)}
    made = make_plan(RunRequest(models=("smollm2",), sha=git(tmp_path / "subject", "rev-parse", "HEAD")), models)
    subject, out = tmp_path / "subject", tmp_path / "out"
    with pytest.raises(RemoteCodeError, match=r"\[smollm2\] trust_remote_code"):
        admit_entry(made, FetchOutputs({}, {}), "smollm2", subject=subject, store=tmp_path, out=out, environ=os.environ)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (None, "reference"),
        (PlannedEnvironment("fast_llm"), "fast_llm"),
        (PlannedEnvironment("theirs", "requirements = []\n"), "theirs.toml"),
    ],
)
def test_the_environment_is_the_plans(environment: PlannedEnvironment | None, expected: str, tmp_path: Path) -> None:
    made = replace(make_plan(RunRequest(models=("smollm2",)), samples.MODELS), environment=environment)
    written = write_environment(made, tmp_path)
    assert written == (str(tmp_path / expected) if expected.endswith(".toml") else expected)
    if environment and environment.text:
        assert (tmp_path / expected).read_text() == environment.text


def test_the_registrys_environment_of_an_entry_goes_before_the_runs(tmp_path: Path) -> None:
    made = make_plan(RunRequest(models=("smollm2", "mistral")), samples.MODELS)
    own, text = PlannedEnvironment("own"), PlannedEnvironment("code", "requirements = []\n")
    entries = (replace(made.entries[0], environment=own, code_environment=text), made.entries[1])
    made = replace(made, entries=entries, environment=PlannedEnvironment("runs"))
    assert [write_environment(made, tmp_path, name) for name in ("smollm2", "mistral")] == ["own", "runs"]
    assert write_description(text, tmp_path / "new") == str(tmp_path / "new" / "code.toml")
    assert (tmp_path / "new" / "code.toml").read_text() == text.text


def test_neither_a_git_on_the_path_nor_one_of_its_variables_answers_for_the_checkout(tmp_path: Path) -> None:
    for name in ("subject", "planned"):
        git(tmp_path, "init", "--quiet", name)
        git(tmp_path / name, "commit", "--quiet", "--allow-empty", f"--message={name}")
    wanted = git(tmp_path / "planned", "rev-parse", "HEAD")
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho {wanted}\n")
    program.chmod(0o755)
    hostile = {"PATH": f"{program.parent}:{os.environ['PATH']}", "GIT_DIR": str(tmp_path / "planned/.git")}
    assert read_head_commit(tmp_path / "subject", hostile) == git(tmp_path / "subject", "rev-parse", "HEAD") != wanted


@pytest.fixture
def outputs(tmp_path: Path) -> FetchOutputs:
    """What a fetch job handed over, which has uploaded its checkpoint to `tmp_path/place`."""
    store = Store(tmp_path / "fetch")
    store.create_directories()
    path = add(store)
    stored = store.find(KEY)
    assert stored is not None
    RemoteStore(f"file://{tmp_path}/place").upload(KEY, stored)
    point = Checkpoint(
        KEY.model_id, KEY.commit, KEY.layers, str(path), "miss", 4096, 0, 0, 0.0, stored.manifest_sha256, 5
    )
    return make_fetch_outputs({"ours": point}, {}, store.root)


def test_the_planned_checkpoint_is_copied_and_verified(outputs: FetchOutputs, tmp_path: Path) -> None:
    for _ in range(2):
        copy_planned_checkpoint(outputs, "ours", tmp_path / "test", f"file://{tmp_path}/place")
    checkpoint = verify_checkpoint(outputs, "ours", tmp_path / "test")
    assert checkpoint.path == str(Store(tmp_path / "test").checkpoint_path(KEY))
    copy_planned_checkpoint(outputs, "theirs", tmp_path / "test", f"file://{tmp_path}/place")


def test_another_manifest_than_the_fetched_one_is_not_copied(outputs: FetchOutputs, tmp_path: Path) -> None:
    other = replace(outputs.checkpoints["ours"], manifest_sha256="0" * 64)
    with pytest.raises(InfrastructureError, match="has no checkpoint of 'ours' with the manifest that was fetched"):
        copy_planned_checkpoint(
            replace(outputs, checkpoints={"ours": other}), "ours", tmp_path / "test", f"file://{tmp_path}/place"
        )
    with pytest.raises(InfrastructureError, match="has no checkpoint of 'ours'"):
        copy_planned_checkpoint(outputs, "ours", tmp_path / "test", f"file://{tmp_path}/nowhere")


def test_a_local_copy_of_another_fetch_makes_room(outputs: FetchOutputs, tmp_path: Path) -> None:
    local = Store(tmp_path / "test")
    local.create_directories()
    manifest = add(local) / "hub-tests.json"
    manifest.write_text(manifest.read_text() + " ")
    copy_planned_checkpoint(outputs, "ours", local.root, f"file://{tmp_path}/place")
    assert verify_checkpoint(outputs, "ours", local.root).layers == KEY.layers


@pytest.mark.parametrize("path", ["../x", "/etc", "checkpoints/a--b/c", f"elsewhere/owner--model/{KEY.name}"])
def test_a_path_that_is_no_checkpoint_of_a_store(outputs: FetchOutputs, tmp_path: Path, path: str) -> None:
    forged = replace(outputs, checkpoints={"ours": replace(outputs.checkpoints["ours"], path=path)})
    with pytest.raises(RequestError, match="is no checkpoint of a store"):
        copy_planned_checkpoint(forged, "ours", tmp_path / "test", f"file://{tmp_path}/place")


@pytest.mark.parametrize("plant", ["model.bin", "directory/", "link"])
def test_a_planted_name_is_not_admitted(outputs: FetchOutputs, tmp_path: Path, plant: str) -> None:
    path = tmp_path / "fetch" / outputs.checkpoints["ours"].path
    verify_checkpoint(outputs, "ours", tmp_path / "fetch")
    if plant == "link":
        (path / plant).symlink_to("model.safetensors")
    elif plant.endswith("/"):
        (path / plant).mkdir()
    else:
        (path / plant).write_bytes(bytes(4096))
    with pytest.raises(InfrastructureError, match=r"that the manifest does not name; .*: hub-tests cache repair"):
        verify_checkpoint(outputs, "ours", tmp_path / "fetch")


def test_code_is_admitted_exactly_as_the_fetch_job_saw_it(tmp_path: Path) -> None:
    """Also where somebody has changed a file, and the manifest beside it, in both stores."""
    model = HubModel("own", MODEL, "llama", trust_remote_code=True, code_environment="hf-5-14", code_revision=COMMIT)
    seen = find_code(store_code(tmp_path / "fetch", own="X = 1\n"))
    other = find_code(store_code(tmp_path / "other", own="X = 2\n"))
    assert seen is not None
    assert other is not None
    place = RemoteCodeStore(f"file://{tmp_path}/place")
    outputs = FetchOutputs({}, {}, {"own": seen.digest})
    place.upload_code(StorePaths(tmp_path / "other").code_path(MODEL, COMMIT), other)
    with pytest.raises(InfrastructureError, match="with the digest that was fetched for this run"):
        admit_code(outputs, model, tmp_path / "other", place.url)
    place.upload_code(StorePaths(tmp_path / "fetch").code_path(MODEL, COMMIT), seen)
    for _ in range(2):
        admitted = admit_code(outputs, model, tmp_path / "other", place.url)
        assert (admitted / "own.py").read_text() == "X = 1\n"
    with pytest.raises(InfrastructureError, match="the fetch job has none in its outputs"):
        admit_code(FetchOutputs({}, {}), model, tmp_path / "fetch", None)


def test_a_run_holds_what_it_fetched(outputs: FetchOutputs, tmp_path: Path) -> None:
    root = tmp_path / "fetch"
    point = outputs.checkpoints["ours"]
    hold_for_run([root / point.path], 4711, store=root)
    assert [entry.holder for entry in Store(root).list_entries()] == ["run 4711"]
