"""`plan`: the commit is fixed, and GitHub is asked only for what is not known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.context import WorkflowInputs
from ci.verbs.plan import plan_event
from tests.ci.github.test_actions import runner_reads
from tests.e2e import events

if TYPE_CHECKING:
    from ci.github.context import Context
    from tests.e2e.fake_github import State


ROOT = Path(__file__).parents[3]


def recorded(tmp_path: Path, payload: Any) -> Path:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(payload))
    return path


def test_a_plan_fixes_the_commit_of_a_branch(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "release/1"] = "3" * 40
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",), subject_ref="release/1"))
    made = plan_event(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch()))
    assert (made.request.sha, [entry.name for entry in made.entries]) == ("3" * 40, ["mixtral"])
    assert context.output_path is not None
    outputs = runner_reads(context.output_path.read_text())
    assert (outputs["sha"], outputs["count"], outputs["scope"]) == ("3" * 40, "1", "main")


def test_a_pull_request_named_by_hand_is_held_to_its_head(context: Context, state: State, tmp_path: Path) -> None:
    """Also where a whole commit is given: it must be what the pull request points at."""
    state.pulls[7] = {"state": "open", "sha": "4" * 40, "repository": "mallory/framework"}
    event = recorded(tmp_path, events.dispatch())
    asking = replace(context.inputs, models=("mixtral",), pull_request=7, subject_ref="3" * 40)
    with pytest.raises(RequestError, match=f"its head is {'4' * 40}, give it as subject-ref"):
        plan_event(replace(context, inputs=asking), "workflow_dispatch", event)
    made = plan_event(replace(context, inputs=replace(asking, subject_ref="4" * 40)), "workflow_dispatch", event)
    assert made.request.sha == "4" * 40


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
