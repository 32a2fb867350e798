"""One run of one candidate: what its report answers, and how a candidate is named to `hub-tests run`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.bisect.probe import RunProbe, name_source, read_answer, read_missing_report
from ci.environments.description import load_description
from ci.errors import InfrastructureError, RequestError
from ci.known_refusals import KnownRefusal
from ci.models import SubjectEnvironment
from ci.run_arguments import make_cli_arguments
from ci.run_options import RunOptions
from ci.settings import Settings
from tests.ci.bisect.history import run_git
from tests.ci.report import samples

if TYPE_CHECKING:
    from ci.report.results import Results
    from tests.standin.server import HubServer

ROOT = Path(__file__).parents[3]
FORWARD = "test_forward_equivalence[smollm2]"
COMMIT = "ab" * 20


def judge(fault: samples.Fault | None = None) -> Results:
    plan = samples.plan_of("smollm2")
    return samples.make_results(plan, {FORWARD: fault} if fault else {})


def test_a_report_is_an_answer() -> None:
    assert read_answer(judge()).answer == "good"
    wrong = read_answer(judge(samples.mismatch()))
    assert (wrong.answer, wrong.failed) == ("bad", (FORWARD,))
    assert "rotary embedding is wrong" in wrong.said


def test_a_known_refusal_is_what_is_searched_for() -> None:
    plan = samples.plan_of("smollm2")
    known = KnownRefusal("reference", "refused in these words", "2026-11-25", "docs/findings.md")
    entries = tuple(replace(e, model=replace(e.model, known_refusals=(known,))) for e in plan.entries)
    fault = samples.Fault("failure", known.words, known.words, {"failure_class": "other", "diagnosis": known.words})
    chain = samples.chain("smollm2", "test_conversion", known.words, steps=entries[0].tests[2:])
    results = samples.make_results(replace(plan, entries=entries), {"test_conversion[smollm2]": fault, **chain})
    assert results.verdict == "neutral"
    assert read_answer(results).answer == "bad"


@pytest.mark.parametrize(
    "message",
    [
        "the subject's build failed: error: no such file (exit code 1, log: overlay.log)",
        "the subject's build took longer than 1800 s (log: x)",
        "--subject-path /x: its ci/ has no worker program (ci/subjects/worker_main.py)",
    ],
)
def test_what_cannot_be_built_is_no_answer(message: str) -> None:
    fault = samples.Fault("failure", message, message, {"failure_class": "crash", "diagnosis": message})
    assert read_answer(judge(fault)).answer == "skip"
    assert read_missing_report(2, f"noise\nhub-tests: {message}\n").answer == "skip"


def test_versions_that_exclude_each_other_are_no_answer() -> None:
    log = "hub-tests: uv pip: x No solution found when resolving dependencies: because torch==9 …\n"
    assert read_missing_report(3, log).answer == "skip"


def test_a_machine_problem_is_tried_again_later() -> None:
    gone = samples.Fault("failure", "x", "x", {"failure_class": "hub_unavailable", "diagnosis": "the Hub is away"})
    with pytest.raises(InfrastructureError, match="run the same command again to go on"):
        read_answer(judge(gone))
    with pytest.raises(InfrastructureError, match="no report was written"):
        read_missing_report(137, "Killed\n")
    with pytest.raises(RequestError, match="cannot be imported here"):
        read_missing_report(2, "hub-tests: --subject fast_llm: cannot be imported here\n")


def test_a_commit_is_named_by_address(tmp_path: Path) -> None:
    assert name_source("https://host/owner/name@main", COMMIT) == f"https://host/owner/name@{COMMIT}"
    assert name_source(str(tmp_path), COMMIT) == f"{tmp_path.as_uri()}@{COMMIT}"


def test_only_the_candidate_differs_between_two_runs(tmp_path: Path) -> None:
    options = RunOptions("fast_llm", environment="fast_llm", subject_source="https://h/o/n", device="cpu", deep=True)
    model = samples.MODELS["smollm2"]
    for over, candidate in (("commits", COMMIT), ("transformers", "5.21.0")):
        probe = RunProbe(model, over, options, Settings(tmp_path), {}, tmp_path, make_cli_arguments)
        chosen = make_cli_arguments(probe._choose_options(candidate, tmp_path))
        usual = make_cli_arguments(options)
        assert len(chosen) == len(usual)
        assert sum(one != other for one, other in zip(chosen, usual, strict=True)) == 1
    description = load_description(str(tmp_path / "environment.toml"))
    assert description.requirements == (*load_description("fast_llm").requirements, "transformers==5.21.0")


def test_versions_are_tried_in_the_environment_that_the_entry_names(tmp_path: Path) -> None:
    own = (SubjectEnvironment("fast_llm", "fast_llm-gemma4"),)
    model = replace(samples.MODELS["smollm2"], environments=own)
    options = RunOptions("fast_llm", environment="fast_llm", subject_source="https://h/o/n")
    probe = RunProbe(model, "transformers", options, Settings(tmp_path), {}, tmp_path, make_cli_arguments)
    chosen = probe._choose_options("5.21.0", tmp_path)
    assert chosen.only_environment
    pinned = load_description(str(chosen.environment)).requirements
    assert set(load_description("fast_llm-gemma4").requirements) < set(pinned)
    assert "transformers==5.21.0" in pinned


REGISTRY = '[tiny]\nmodel_id = "stand-in/llama"\ncheckpoint_format = "llama"\n'
GATE, UP = "hugging_face}.gate_proj", "hugging_face}.up_proj"


@pytest.mark.long
@pytest.mark.xdist_group("run")
def test_a_real_regression_is_found_by_the_command_line(hub: HubServer, tmp_path: Path) -> None:
    from tests.standin.models import repository

    hub.add("stand-in/llama", repository("stand-in/llama"))
    (tmp_path / "models.toml").write_text(REGISTRY)
    subject, commits = tmp_path / "subject", []
    shutil.copytree(ROOT / "ci", subject / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    run_git(subject, "init", "--quiet", "--initial-branch=main")
    converter = subject / "ci/subjects/reference/convert.py"
    swap = f'(f"{{{GATE}", f"{{{UP}")', f'(f"{{{UP}", f"{{{GATE}")'
    assert swap[0] in converter.read_text()
    for number in range(5):
        if number == 3:
            converter.write_text(converter.read_text().replace(*swap))
        (subject / "NOTES").write_text(f"{number}\n")
        run_git(subject, "add", "-A")
        run_git(subject, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", f"change {number}")
        commits.append(run_git(subject, "rev-parse", "HEAD"))
    words = ["-m", "ci", "bisect", "tiny", "--good", commits[0], "--bad", "main", "--subject", "reference"]
    words += ["--subject-source", str(subject), "--subject-python", sys.executable, "--device", "cpu"]
    words += ["--registry", str(tmp_path / "models.toml"), "--state", str(tmp_path / "state")]
    environ = {"PATH": "/usr/bin:/bin", "HF_ENDPOINT": hub.endpoint, "HUB_TESTS_CACHE": str(tmp_path / "store")}
    environ |= {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"first bad: {commits[3][:12]} ")
    assert "3 runs of at most 3" in done.stdout
    assert "test_forward_equivalence[tiny]" in done.stdout
