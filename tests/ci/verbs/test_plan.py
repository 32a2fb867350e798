"""`plan`: the commit is fixed, and GitHub is asked only for what is not known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ci.cli import options
from ci.errors import InfrastructureError, RequestError
from ci.github.context import WorkflowInputs
from ci.hub.slices import Slice
from ci.plan import PlannedAdapter, PlannedEnvironment
from ci.subjects import described
from ci.subjects.registry import find_offer
from ci.verbs.admit import write_adapter
from ci.verbs.plan import plan_event, read_adapter, read_environment
from tests.ci.github.test_actions import runner_reads
from tests.e2e import events
from tests.e2e.fake_github import Fault

if TYPE_CHECKING:
    from ci.github.context import Context
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State


ROOT = Path(__file__).parents[3]


def recorded(tmp_path: Path, payload: Any) -> Path:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(payload))
    return path


def test_a_plan_fixes_the_commit_of_a_branch(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "release/1"] = "3" * 40
    state.refs["heads/release/1"] = "3" * 40
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",), subject_ref="release/1"))
    made = plan_event(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch()))
    assert (made.request.sha, [entry.name for entry in made.entries]) == ("3" * 40, ["mixtral"])
    assert context.output_path is not None
    outputs = runner_reads(context.output_path.read_text())
    assert (outputs["sha"], outputs["count"], outputs["scope"]) == ("3" * 40, "1", "main")
    assert outputs["fill-compile-cache"] == ""


def test_a_plan_of_the_default_branch_fills_the_compile_cache(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "HEAD"] = "3" * 40
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",)))
    plan_event(asking, "schedule", recorded(tmp_path, events.schedule()))
    assert context.output_path is not None
    assert dict(runner_reads(context.output_path.read_text()))["fill-compile-cache"] == "true"


@pytest.mark.parametrize(
    ("consumer", "environment"), [(None, ""), ("vllm", "vllm"), ("transformers", "")], ids=["none", "vllm", "own"]
)
def test_a_plan_tells_the_engine_and_the_environment_that_it_needs(
    context: Context, state: State, tmp_path: Path, consumer: Any, environment: str
) -> None:
    state.commits[state.repository, "HEAD"] = "3" * 40
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",), consumer=consumer))
    made = plan_event(asking, "schedule", recorded(tmp_path, events.schedule()))
    assert ("test_served_export[mixtral]" in made.entries[0].tests) is (consumer is not None)
    assert context.output_path is not None
    outputs = dict(runner_reads(context.output_path.read_text()))
    assert (outputs["consumer"], outputs["consumer-environment"]) == (consumer or "", environment)


def test_a_pull_request_named_by_hand_is_held_to_its_head(context: Context, state: State, tmp_path: Path) -> None:
    """Also where a whole commit is given: it must be what the pull request points at."""
    state.pulls[7] = {"state": "open", "sha": "4" * 40, "repository": "mallory/framework"}
    event = recorded(tmp_path, events.dispatch())
    asking = replace(context.inputs, models=("mixtral",), pull_request=7, subject_ref="3" * 40)
    with pytest.raises(RequestError, match=f"its head is {'4' * 40}, give it as subject-ref"):
        plan_event(replace(context, inputs=asking), "workflow_dispatch", event)
    made = plan_event(replace(context, inputs=replace(asking, subject_ref="4" * 40)), "workflow_dispatch", event)
    assert made.request.sha == "4" * 40


FORKS = "9" * 40


@pytest.mark.parametrize("ref", [FORKS, FORKS[:8], "pull/7/head", "refs/pull/7/head"])
def test_a_forks_commit_by_hand_needs_its_pull_request(
    context: Context, state: State, tmp_path: Path, ref: str
) -> None:
    """GitHub shows a fork's commits in the repository that it was forked from, by several names."""
    state.commits |= {(state.repository, name): FORKS for name in (FORKS, FORKS[:8], "pull/7/head", "refs/pull/7/head")}
    state.pulls[7] = {"state": "open", "sha": FORKS, "repository": "mallory/framework"}
    event = recorded(tmp_path, events.dispatch())
    asking = replace(context.inputs, models=("mixtral",), subject_ref=ref)
    with pytest.raises(RequestError, match="give its number and the commit that you reviewed"):
        plan_event(replace(context, inputs=asking), "workflow_dispatch", event)
    assert state.statuses == []
    named = replace(context, inputs=replace(asking, pull_request=7))
    if ref != FORKS:
        with pytest.raises(RequestError, match="its head is"):
            plan_event(named, "workflow_dispatch", event)
        return
    assert plan_event(named, "workflow_dispatch", event).request.sha == FORKS
    state.pulls[7]["state"] = "closed"
    with pytest.raises(RequestError, match="closed"):
        plan_event(named, "workflow_dispatch", event)


@pytest.mark.parametrize("kind", ["branch", "history", "tag", "default"])
def test_the_repositorys_own_commits_need_none(context: Context, state: State, tmp_path: Path, kind: str) -> None:
    own = "3" * 40
    ref = {"tag": "v1", "default": ""}.get(kind, own)
    state.commits |= {(state.repository, "v1"): own, (state.repository, "HEAD"): own}
    state.refs |= {"branch": {"heads/feature": own}, "tag": {"tags/v1": own}}.get(kind, {})
    state.ancestors = {own} if kind == "history" else set()
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",), subject_ref=ref))
    assert plan_event(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch())).request.sha == own
    assert [(s["sha"], s["state"], s["description"]) for s in state.statuses] == [(own, "pending", "running: mixtral")]


def test_the_list_of_people_holds_for_a_run_by_hand(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "HEAD"] = "3" * 40
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",)))
    event = recorded(tmp_path, events.dispatch())
    with pytest.raises(RequestError, match="alice is not on the list HUB_TESTS_ALLOWED"):
        plan_event(replace(asking, allowed_logins=("bob",)), "workflow_dispatch", event)
    assert plan_event(replace(asking, allowed_logins=("Alice",)), "workflow_dispatch", event).request.sha == "3" * 40


def test_a_merge_group_tests_what_the_policy_requires(context: Context, state: State, tmp_path: Path) -> None:
    asking = replace(context, inputs=replace(context.inputs, required=("smollm2", "mixtral")))
    made = plan_event(asking, "merge_group", recorded(tmp_path, events.merge_group("7" * 40)))
    assert (made.request.trigger, made.request.sha, made.request.pull_request) == ("merge_group", "7" * 40, None)
    assert {entry.name for entry in made.entries} == set(made.required) == {"smollm2", "mixtral"}
    assert [(s["sha"], s["state"]) for s in state.statuses] == [("7" * 40, "pending")]
    assert context.output_path is not None
    assert dict(runner_reads(context.output_path.read_text()))["scope"] == "pull-requests"


@pytest.mark.parametrize(("given", "kept"), [("2", None), ("3", 3), ("auto", "auto"), ("", None)])
def test_the_registrys_own_number_of_layers_is_nothing_special(
    context: Context, state: State, tmp_path: Path, given: str, kept: Any
) -> None:
    asking = replace(context, inputs=replace(context.inputs, models=("smollm2",), layers=given))
    made = plan_event(asking, "merge_group", recorded(tmp_path, events.merge_group("7" * 40)))
    assert made.request.layers == kept
    assert made.entries[0].model.num_layers_to_keep == (kept or 2)


@pytest.mark.parametrize(
    ("layers", "part", "kept"),
    [
        ("", "vocab=16384", (None, None)),
        ("2", "vocab=16384", (None, None)),
        ("0,1", "vocab=9", ((0, 1), Slice(9))),
        ("", "experts=2", (None, Slice(experts=2))),
    ],
)
def test_the_registrys_own_slice_is_nothing_special(
    context: Context, state: State, tmp_path: Path, layers: str, part: str, kept: Any
) -> None:
    asking = replace(context, inputs=replace(context.inputs, models=("sliced-smollm2",), layers=layers, slice=part))
    made = plan_event(asking, "merge_group", recorded(tmp_path, events.merge_group("7" * 40)))
    assert (made.request.layers, made.request.slice) == kept
    assert made.entries[0].model.slice == (kept[1] or Slice(16384))


def test_a_policy_that_names_nothing_is_refused(context: Context, state: State, tmp_path: Path) -> None:
    asking = replace(context, inputs=replace(context.inputs, required=("@nonesuch",)))
    with pytest.raises(RequestError, match="no group '@nonesuch'"):
        plan_event(asking, "schedule", recorded(tmp_path, events.schedule()))


@pytest.mark.parametrize("status", [403, 500])
def test_a_pending_status_that_fails_stops_no_run(
    context: Context, state: State, github: Contract, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    github.fake.faults.append(Fault("POST", ".*/statuses/.*", status, times=99))
    event = recorded(tmp_path, events.merge_group("7" * 40))
    assert plan_event(context, "merge_group", event).request.sha == "7" * 40
    assert "the pending status" in capsys.readouterr().err


def test_a_name_that_is_no_commit_is_refused(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "HEAD"] = "abc"
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",)))
    with pytest.raises((RequestError, InfrastructureError)):
        plan_event(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch()))


def test_a_plan_of_nothing_asks_nobody(context: Context, state: State, tmp_path: Path) -> None:
    asking = replace(context, inputs=WorkflowInputs(models=("nonesuch",)))
    with pytest.raises(RequestError, match="no model 'nonesuch'"):
        plan_event(asking, "schedule", recorded(tmp_path, events.schedule()))
    assert context.output_path is not None
    assert not context.output_path.exists()


def test_a_plan_needs_no_torch_and_no_http_client(tmp_path: Path) -> None:
    path = recorded(tmp_path, events.schedule())
    program = (
        "import sys; from ci.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'githubkit', 'huggingface_hub'} & set(sys.modules); print(code, heavy)"
    )
    words = ["plan", "--event-name", "schedule", "--event-path", str(path)]
    environ = {"GITHUB_REPOSITORY": "o/r", "HUB_TESTS_INPUTS": json.dumps({"subject-ref": "1" * 40})}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr


def test_the_callers_environment_travels_with_the_plan(context: Context, state: State, tmp_path: Path) -> None:
    """From the checkout of the default branch, as text: the test job sees no other file of that name."""
    text = 'python = ">=3.11"\nrequirements = ["numpy"]\n'
    (tmp_path / "caller/ci").mkdir(parents=True)
    (tmp_path / "caller/ci/theirs.toml").write_text(text)
    environment = read_environment("ci/theirs.toml", tmp_path / "caller")
    assert environment == PlannedEnvironment("theirs", text)
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",), subject_ref="3" * 40))
    made = plan_event(asking, "schedule", recorded(tmp_path, events.schedule()), environment=environment)
    assert made.environment == environment
    assert read_environment("fast_llm", tmp_path) == PlannedEnvironment("fast_llm")


def test_the_environments_that_entries_name_travel_with_the_plan(
    context: Context, state: State, tmp_path: Path
) -> None:
    """Each test job gets its entry's own, as text where it is a file of the caller's default branch."""
    text = 'python = ">=3.11"\nrequirements = ["numpy"]\n'
    (tmp_path / "caller").mkdir()
    (tmp_path / "caller/theirs.toml").write_text(text)
    registry = tmp_path / "models.toml"
    entry = 'model_id = "o/{0}"\ncheckpoint_format = "llama"\ngroups = ["default"]\n'
    own = 'environments = [{{ subject = "fast_llm", environment = "{0}" }}]\n'
    code = 'trust_remote_code = true\ncode_environment = "theirs.toml"\ncode_path = "x"\n'
    texts = ["[a]\n" + entry.format("a"), "[b]\n" + entry.format("b") + own.format("fast_llm-gemma4")]
    registry.write_text("\n".join([*texts, "[c]\n" + entry.format("c") + own.format("theirs.toml") + code]))
    asking = replace(context, inputs=replace(context.inputs, subject="fast_llm", subject_ref="3" * 40))
    event = recorded(tmp_path, events.schedule())
    made = plan_event(asking, "schedule", event, registry, caller=tmp_path / "caller")
    theirs = PlannedEnvironment("theirs", text)
    assert [entry.environment for entry in made.entries] == [None, PlannedEnvironment("fast_llm-gemma4"), theirs]
    assert [entry.code_environment for entry in made.entries] == [None, None, theirs]
    registry.write_text("[b]\n" + entry.format("b") + own.format("fast_lm"))
    with pytest.raises(RequestError, match=r"\[b\] environment 'fast_lm': .* Did you mean 'fast_llm'"):
        plan_event(asking, "schedule", event, registry, caller=tmp_path / "caller")


def test_a_pull_request_by_hand_leaves_out_known_refusals(context: Context, state: State, tmp_path: Path) -> None:
    state.pulls[7] = {"state": "open", "sha": "4" * 40, "repository": state.repository}
    asking = replace(context, inputs=replace(context.inputs, subject="fast_llm", pull_request=7))
    made = plan_event(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch()))
    assert [one.name for one in made.left_out] == ["smollm2", "mixtral"]
    assert made.required == tuple(entry.name for entry in made.entries) == ("mistral", "qwen2-05b")


@pytest.mark.parametrize("name", ["ci/none.toml", "../outside.toml", "/etc/outside.toml", "link.toml", "fastllm"])
def test_an_environment_that_is_no_file_of_the_caller_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "caller").mkdir()
    (tmp_path / "outside.toml").write_text('python = ">=3.11"\nrequirements = []\n')
    (tmp_path / "caller/link.toml").symlink_to(tmp_path / "outside.toml")
    with pytest.raises(RequestError):
        read_environment(name, tmp_path / "caller")


def test_another_private_repository_is_read_with_its_own_token(
    context: Context, state: State, github: Contract, tmp_path: Path
) -> None:
    state.commits["org/private", "HEAD"] = "5" * 40
    inputs = replace(context.inputs, models=("mixtral",), subject_repository="org/private")
    asking = replace(context, inputs=inputs, subject_token="ghs_" + "x" * 20)
    github.fake.log.clear()
    with pytest.raises(RequestError, match="401"):  # the stand-in knows another token
        plan_event(asking, "schedule", recorded(tmp_path, events.schedule()))
    made = plan_event(replace(asking, subject_token=""), "schedule", recorded(tmp_path, events.schedule()))
    assert made.request.sha == "5" * 40


ADAPTER = """
adapter = "trainer.hub:Subject"
name = "trainer"
package = "trainer"
formats = ["llama", "mixtral"]
exports = false
"""


def test_a_described_adapter_is_planned_by_its_offer_and_its_text_travels(
    context: Context, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(described, "_ANNOUNCED", {})
    (tmp_path / "hub-subject.toml").write_text(ADAPTER)
    inputs = replace(context.inputs, models=("smollm2",), subject="hub-subject.toml")
    state.commits[state.repository, "HEAD"] = "3" * 40
    adapter = read_adapter(inputs.subject, tmp_path)
    event = recorded(tmp_path, events.schedule())
    made = plan_event(replace(context, inputs=inputs), "schedule", event, adapter=adapter)
    assert (made.request.subject, made.adapter) == ("trainer", PlannedAdapter("hub-subject.toml", ADAPTER))
    (entry,) = made.entries
    assert "test_forward_equivalence[smollm2]" in entry.tests
    assert not [test for test in entry.tests if test.startswith("test_hub_model_conversion")]
    assert context.output_path is not None
    packed = runner_reads(context.output_path.read_text())["plan"]
    monkeypatch.setattr(described, "_ANNOUNCED", {})
    call: Any = SimpleNamespace(obj={"HUB_TESTS_PLAN": packed})
    assert options.plan(call) == made
    assert find_offer("trainer").formats == ("llama", "mixtral")  # in a later job too
    assert write_adapter(made, tmp_path / "out") == str(tmp_path / "out/subject.toml")
    assert (tmp_path / "out/subject.toml").read_text() == ADAPTER
    assert "trainer" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret.toml", "expected a file of the calling repository's default branch"),
        ("none.toml", "cannot read the file of the default branch"),
        ("long.toml", "longer than 65536 bytes"),
        ("link.toml", "expected a file of the calling repository's default branch"),
    ],
)
def test_only_a_description_of_the_default_branch_is_read(name: str, said: str, tmp_path: Path) -> None:
    caller = tmp_path / "caller"
    caller.mkdir()
    (tmp_path / "secret.toml").write_text(ADAPTER)
    (caller / "link.toml").symlink_to(tmp_path / "secret.toml")
    (caller / "long.toml").write_text("#" * 70000)
    with pytest.raises(RequestError, match=said):
        read_adapter(name, caller)
    assert read_adapter("fast_llm", caller) is None
