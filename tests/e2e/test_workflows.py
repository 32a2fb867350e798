"""The workflow files themselves: by GitHub's own parser and evaluator, by zizmor and shellcheck, and by our own rules.

What act leaves out or does differently is held here: `types`, permissions, concurrency, time limits, `queue`, inputs.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ci.github import commit_results, data_branch, workflow_runs
from ci.github.api import ApiSettings
from ci.suite_process import SECONDS_TO_WRITE
from ci.verbs import admit, pack, report, watch
from tests.e2e import contract, events
from tests.e2e.act import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
GITHUB = ROOT / ".github"
WORKFLOWS = {path.name: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
FILES = [*WORKFLOWS.values(), GITHUB / "actions/setup/action.yml"]
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
ZIZMOR, SHELLCHECK = (Path(sys.executable).with_name(tool) for tool in ("zizmor", "shellcheck"))
STATUS_COMMENT_GROUP = "hub-tests-status-comment-"
SETUP_SECONDS = 50
"""Checkout and installation of a job that does nothing else for long."""

KEEPS_COMPILED = "keep-compiled"
RUN_SUBJECTS = {("hub-tests.yml", "test"), ("hub-tests.yml", "upstream")}
"""The jobs that run a subject's code."""

OURS_ALONE = ("ci.yml", "release.yml")
"""The workflows of this repository itself, which nobody calls."""

needs_npm = pytest.mark.skipif(bool(contract.missing()), reason=contract.missing() or "npm is here")


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    return loaded


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, path in WORKFLOWS.items():
        for job, content in load(path)["jobs"].items():
            yield name, job, content


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for workflow, job, content in jobs():
        for step in content.get("steps", []):
            yield f"{workflow}:{job}", step
    for step in load(GITHUB / "actions/setup/action.yml")["runs"]["steps"]:
        yield "setup", step


# GitHub's own tools


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of `js/`, each bundled into one file: Node 20 cannot import their JSON otherwise."""
    folder = tmp_path_factory.mktemp("js")
    for source in (HERE / "js").glob("*.mjs"):
        command = ["node", f"{HERE}/node_modules/esbuild/bin/esbuild", str(source), "--bundle", "--platform=node"]
        command += ["--format=cjs", "--log-level=warning", f"--outfile={folder / source.stem}.cjs"]
        subprocess.run(command, check=True, cwd=HERE)
    return folder


def validated(scripts: Path, root: Path, *files: str) -> list[dict[str, Any]]:
    """What the language service finds; it does not know `cache-mode` yet (test_the_job_that_runs_a_subject…)."""
    done = subprocess.run(
        ["node", scripts / "validate.cjs", root, *files], check=True, capture_output=True, text=True, timeout=120
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@needs_npm
def test_githubs_language_service_finds_nothing(scripts: Path) -> None:
    found = validated(scripts, ROOT, *(str(path.relative_to(ROOT)) for path in FILES))
    assert [finding for finding in found if "cache-mode" not in finding["message"]] == []


@needs_npm
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("needs.plan.outputs.sha }}", "needs.plan.outputs.shaa }}", "shaa"),
        ("steps.admit.outputs.subject }}", "steps.admitt.outputs.subject }}", "admitt"),
        ("timeout-minutes: 240", "timeout-minuts: 240", "timeout-minuts"),
        (
            "uses: ./.github/workflows/hub-tests.yml",
            "uses: ./.github/workflows/hub-tests.yml\n    timeout: 3",
            "timeout",
        ),
        ("      subject-ref: ${{ needs.gate", "      subject-reff: ${{ needs.gate", "subject-reff"),
    ],
)
def test_the_language_service_would_find_it(scripts: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    changed = 0
    for name, path in WORKFLOWS.items():
        text = path.read_text(encoding="utf-8")
        changed += old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")
    assert changed == 1
    found = validated(scripts, tmp_path, *(f".github/workflows/{name}" for name in WORKFLOWS))
    assert any(said in finding["message"] for finding in found)


def adopting() -> str:
    """The caller's workflow, as the guide gives it."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (GITHUB.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(block)


@needs_npm
def test_the_callers_workflow_is_short_and_valid(scripts: Path, tmp_path: Path) -> None:
    text = adopting()
    assert len(text.splitlines()) <= 20
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    for name, path in WORKFLOWS.items():
        (folder / name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    local = re.sub(r"OWNER/hub-tests/(\S+)@COMMIT # v\d+\.\d+\.\d+", r"./\1", text)
    assert local != text
    (folder / "caller.yml").write_text(local, encoding="utf-8")
    found = validated(scripts, tmp_path, ".github/workflows/caller.yml")
    assert [finding for finding in found if "cache-mode" not in finding["message"]] == []
    (folder / "caller.yml").write_text(local.replace("runner:", "machine:"), encoding="utf-8")
    assert validated(scripts, tmp_path, ".github/workflows/caller.yml") != []


def test_the_caller_grants_what_the_called_jobs_take() -> None:
    for job in yaml.safe_load(adopting())["jobs"].values():
        called = load(WORKFLOWS[re.findall(r"workflows/([\w-]+\.yml)", job["uses"])[0]])
        for inner in called["jobs"].values():
            for scope, level in (inner["permissions"] or {}).items():
                assert job["permissions"].get(scope) in (level, "write"), f"{scope}: {level}"


def comment(body: str = "/run-hub-tests", **changes: str) -> dict[str, Any]:
    payload = events.comment(body, **changes)
    return {"github": {"event_name": "issue_comment", "event": payload}}


def on_an_issue() -> dict[str, Any]:
    contexts = comment()
    del contexts["github"]["event"]["issue"]["pull_request"]
    return contexts


def needs(**results: Any) -> dict[str, Any]:
    """The context `needs`: a result, or a result and outputs."""
    whole = {
        job: {"result": given, "outputs": {}} if isinstance(given, str) else {"result": given[0], "outputs": given[1]}
        for job, given in results.items()
    }
    return {"needs": whole, "github": {"event_name": "issue_comment"}, "inputs": {}}


def at_night(**results: Any) -> dict[str, Any]:
    return needs(**results) | {"github": {"event_name": "schedule"}}


GOOD_FETCH = ("success", {"count": "2"})
WITH_ENVIRONMENT: dict[str, Any] = {"inputs": {}, "vars": {}}
SWITCHED_OFF: dict[str, Any] = {"inputs": {"upstream": "false"}, "vars": {}}
PREPARED: dict[str, Any] = {"inputs": {}, "vars": {"HUB_TESTS_SUBJECT_PYTHON": "/opt/python"}}
TABLE = [
    ("hub-tests-comment.yml", "gate", comment(), "success", True),
    ("hub-tests-comment.yml", "gate", comment("/run-hub-tests mixtral --plan"), "success", True),
    ("hub-tests-comment.yml", "gate", comment("/Run-Hub-Tests"), "success", True),  # Python says no
    ("hub-tests-comment.yml", "gate", comment("/run-hub-testsx"), "success", True),  # Python says no
    ("hub-tests-comment.yml", "gate", comment("please /run-hub-tests"), "success", False),
    ("hub-tests-comment.yml", "gate", comment(""), "success", False),
    ("hub-tests-comment.yml", "gate", comment(action="edited"), "success", False),
    ("hub-tests-comment.yml", "gate", comment(action="deleted"), "success", False),
    ("hub-tests-comment.yml", "gate", comment(login="x[bot]", kind="Bot"), "success", False),
    ("hub-tests-comment.yml", "gate", on_an_issue(), "success", False),
    ("hub-tests-comment.yml", "gate", {"github": {"event_name": "schedule", "event": {}}}, "success", False),
    *(
        case
        for job, before in (("start", "gate"), ("run", "start"))
        for case in [
            ("hub-tests-comment.yml", job, needs(**{before: ("success", {"decision": "run"})}), "success", True),
            ("hub-tests-comment.yml", job, needs(**{before: ("success", {"decision": "refused"})}), "success", False),
            ("hub-tests-comment.yml", job, needs(**{before: ("success", {})}), "success", False),
            ("hub-tests-comment.yml", job, needs(**{before: ("failure", {"decision": "run"})}), "failure", False),
        ]
    ),
    ("hub-tests-comment.yml", "conclude", needs(gate="skipped", start="skipped", run="skipped"), "success", False),
    ("hub-tests-comment.yml", "conclude", needs(gate="success", run="failure"), "failure", True),
    ("hub-tests-comment.yml", "conclude", needs(gate="cancelled", run="skipped"), "cancelled", True),
    *(
        case
        for job in ("test", "watch")
        for case in [
            ("hub-tests.yml", job, needs(plan="success", fetch=GOOD_FETCH), "success", True),
            ("hub-tests.yml", job, needs(plan="success", fetch=("failure", {"count": "1"})), "failure", True),
            ("hub-tests.yml", job, needs(plan="success", fetch=("failure", {"count": "0"})), "failure", False),
            ("hub-tests.yml", job, needs(plan="success", fetch="failure"), "failure", False),
            ("hub-tests.yml", job, needs(plan="failure", fetch="skipped"), "failure", False),
            ("hub-tests.yml", job, needs(plan="success", fetch=GOOD_FETCH), "cancelled", False),
        ]
    ),
    ("hub-tests.yml", "upstream", at_night(plan="success", fetch=GOOD_FETCH) | WITH_ENVIRONMENT, "success", True),
    ("hub-tests.yml", "upstream", at_night(plan="success", fetch=GOOD_FETCH) | WITH_ENVIRONMENT, "failure", True),
    ("hub-tests.yml", "upstream", at_night(plan="success", fetch=GOOD_FETCH) | WITH_ENVIRONMENT, "cancelled", False),
    ("hub-tests.yml", "upstream", at_night(plan="success", fetch="failure") | WITH_ENVIRONMENT, "failure", False),
    ("hub-tests.yml", "upstream", needs(plan="success", fetch=GOOD_FETCH) | WITH_ENVIRONMENT, "success", False),
    ("hub-tests.yml", "upstream", at_night(plan="success", fetch=GOOD_FETCH) | SWITCHED_OFF, "success", False),
    ("hub-tests.yml", "upstream", at_night(plan="success", fetch=GOOD_FETCH) | PREPARED, "success", False),
    ("hub-tests.yml", "subject", {"inputs": {"subject-private": True}, "vars": {}}, "success", True),
    ("hub-tests.yml", "subject", {"inputs": {"subject-private": False}, "vars": {}}, "success", False),
    ("hub-tests.yml", "subject", {"inputs": {}, "vars": {"HUB_TESTS_SUBJECT_PRIVATE": "true"}}, "success", True),
    ("hub-tests.yml", "report", needs(plan="failure", fetch="skipped", test="skipped"), "failure", True),
    ("hub-tests.yml", "report", needs(plan="success", fetch="success", test="cancelled"), "cancelled", True),
    ("hub-tests.yml", "night", at_night(plan="success", report=("failure", {"sha256": "ab"})), "failure", True),
    ("hub-tests.yml", "night", at_night(plan="success", report="failure"), "failure", False),
    ("hub-tests.yml", "night", needs(plan="success", report=("success", {"sha256": "ab"})), "success", False),
    ("hub-tests.yml", "conclude", needs(plan="failure"), "failure", True),
    ("ci.yml", "conclude", needs(test="cancelled"), "cancelled", True),
]


@needs_npm
def test_conditions_by_githubs_own_evaluator(scripts: Path) -> None:
    asked = [
        {
            "expression": load(WORKFLOWS[workflow])["jobs"][job]["if"].strip().removeprefix("${{").removesuffix("}}"),
            "contexts": contexts,
            "status": status,
        }
        for workflow, job, contexts, status, _ in TABLE
    ]
    done = subprocess.run(
        ["node", scripts / "evaluate.cjs"], input=json.dumps(asked), check=True, capture_output=True, text=True
    )
    got = [answer["truthy"] for answer in json.loads(done.stdout)]
    wrong = [row[:2] + row[3:] + (value,) for row, value in zip(TABLE, got, strict=True) if value is not row[4]]
    assert wrong == []


# Linters


def test_zizmor_finds_nothing() -> None:
    command = [str(ZIZMOR), "--offline", "--no-progress", "--persona=auditor", str(GITHUB)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exception_is_justified_in_place() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if "zizmor: ignore" in line:
                reason = line.split("]", 1)[1].strip() if "zizmor: ignore[" in line else ""
                assert reason or lines[number - 1].strip().startswith("#"), f"{path.name}:{number + 1}"


@pytest.mark.parametrize(("where", "script"), [(where, step["run"]) for where, step in steps() if "run" in step])
def test_shellcheck(where: str, script: str) -> None:
    assert "${{" not in script, f"{where}: values reach a script by its environment"
    command = [str(SHELLCHECK), "--shell=bash", "--severity=style", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# Our own rules


def test_every_action_is_pinned_with_its_version() -> None:
    for path in FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.search(r"(?:^| )uses: (?!\./)(.*)$", line):
                assert PINNED.fullmatch(match[1]), f"{path.name}: {line.strip()}"


def test_workflows_grant_nothing_and_jobs_have_limits() -> None:
    for path in WORKFLOWS.values():
        assert load(path)["permissions"] == {}
    for workflow, job, content in jobs():
        assert "permissions" in content, f"{workflow}:{job}"
        if "uses" not in content:
            assert int(content["timeout-minutes"]) > 0
            assert content["concurrency"]["group"]


def test_a_comment_is_heard_when_it_is_created_only() -> None:
    assert load(WORKFLOWS["hub-tests-comment.yml"])["on"]["issue_comment"] == {"types": ["created"]}


def test_the_job_that_runs_a_subject_has_nothing_to_lose() -> None:
    for workflow, job, content in jobs():
        text = json.dumps(content)
        subject = any(step.get("with", {}).get("path") == "subject" for step in content.get("steps", []))
        assert subject == ((workflow, job) in RUN_SUBJECTS)
        if subject:
            assert content["permissions"] == {}
            assert content["cache-mode"] in ("none", "read")
            assert "actions/cache/save" not in text
            assert "secrets." not in text
            assert "github.token" not in text
            runs = [step["name"] for step in content["steps"]]
            admitted = next(i for i, name in enumerate(runs) if name.startswith("Admit"))
            assert admitted < runs.index(workflow_runs.SUBJECT_STEP)
            suite = next(s for s in content["steps"] if s["name"] == workflow_runs.SUBJECT_STEP)
            assert suite["env"]["HF_HUB_OFFLINE"] == "1"
            assert suite["env"]["ISOLATION"] == "${{ inputs.isolation || 'required' }}"
            assert content["steps"][-1]["if"] == "${{ always() }}"


def test_only_a_trusted_runs_compiled_code_is_saved_and_by_a_job_that_runs_nothing() -> None:
    every = load(WORKFLOWS["hub-tests.yml"])["jobs"]
    keep, trusted = every[KEEPS_COMPILED], "needs.plan.outputs.fill-compile-cache == 'true'"
    assert trusted in keep["if"]
    assert keep["permissions"] == {}
    assert "--may-fail keep-compiled" in every["conclude"]["steps"][-1]["run"]
    (handed,) = [step for step in every["test"]["steps"] if step.get("with", {}).get("path") == "hub-compiled"][1:]
    assert trusted in handed["if"]
    assert keep["steps"][0]["with"]["name"] == handed["with"]["name"]
    saves = [(w, j) for w, j, content in jobs() if "hub-tests-compiled-" in json.dumps(content) and j != "test"]
    assert saves == [("hub-tests.yml", KEEPS_COMPILED)]
    suites = [step for _, step in steps() if step.get("name") == workflow_runs.SUBJECT_STEP]
    assert [trusted in step["env"].get("FILL", "") for step in suites] == [True, False]


def test_the_names_by_which_github_tells_of_jobs_and_steps() -> None:
    every = load(WORKFLOWS["hub-tests.yml"])["jobs"]
    assert workflow_runs.ENTRY_JOB.fullmatch(every["test"]["name"].replace("${{ matrix.name }}", "smollm2"))
    assert every["fetch"]["name"] == workflow_runs.FETCH_JOB
    assert every["subject"]["name"] == workflow_runs.PACK_JOB
    for job in (every[job] for _, job in RUN_SUBJECTS):
        names = [step["name"] for step in job["steps"]]
        for step in job["steps"][: names.index(workflow_runs.SUBJECT_STEP)]:  # nothing of the subject is run in these
            assert step.get("uses") or step["run"].startswith(("hub-tests admit ", "hub-tests env build ")), step[
                "name"
            ]
            assert not step.get("uses", "").startswith("./subject"), step["name"]
            assert step.get("continue-on-error") is None, step["name"]


def test_the_job_that_reads_a_private_subject_runs_nothing_of_it() -> None:
    job = load(WORKFLOWS["hub-tests.yml"])["jobs"]["subject"]
    assert job["permissions"] == {"contents": "read"}
    assert [step["run"].split()[:2] for step in job["steps"] if "run" in step] == [["hub-tests", "pack"]]
    uses = [step["uses"].split("@")[0] for step in job["steps"] if "uses" in step]
    assert set(uses) == {"actions/checkout", "./service/.github/actions/setup", "actions/upload-artifact"}
    tokens = {(w, j) for w, j, c in jobs() if "secrets.SUBJECT_TOKEN" in json.dumps(c.get("steps", []))}
    assert tokens == {("hub-tests.yml", "plan"), ("hub-tests.yml", "subject")}


def test_what_upstream_breaks_blocks_nothing() -> None:
    every = load(WORKFLOWS["hub-tests.yml"])["jobs"]
    assert every["upstream"]["continue-on-error"] == "true"
    assert [name for name, job in every.items() if "upstream" in job.get("needs", [])] == ["night", "conclude"]
    assert "--may-fail upstream" in every["conclude"]["steps"][-1]["run"]
    (upload,) = [step for step in every["upstream"]["steps"] if "upload-artifact" in step.get("uses", "")]
    (collect,) = [s for s in every["report"]["steps"] if "pattern" in s.get("with", {})]
    assert not fnmatch.fnmatch(upload["with"]["name"], collect["with"]["pattern"])
    assert not workflow_runs.ENTRY_JOB.fullmatch(every["upstream"]["name"].replace("${{ matrix.name }}", "smollm2"))


def test_every_machine_of_the_callers_own_is_watched() -> None:
    """A job whose labels are the caller's may find no runner: a hosted job says so on the pull request."""
    for workflow, job, content in jobs():
        if "fromJSON" in str(content.get("runs-on")):
            watches = [step.get("run") for _, step in steps()]
            if job == "upstream":  # on the machines of `test`, after it
                assert content["runs-on"] == load(WORKFLOWS[workflow])["jobs"]["test"]["runs-on"]
                assert "test" in content["needs"]
                continue
            said = "hub-tests watch" if job == "test" else f"hub-tests watch --job {job}"
            assert said in watches, f"{workflow}:{job}"


def test_the_suite_is_ended_in_order_before_its_step_is_killed() -> None:
    suites = [step for _, step in steps() if step.get("name") == workflow_runs.SUBJECT_STEP]
    assert len(suites) == len(RUN_SUBJECTS)
    for step in suites:
        limit = re.search(r"--time-limit (\d+)", step["run"])
        assert limit is not None
        assert int(limit[1]) + 2 * SECONDS_TO_WRITE < 60 * int(step["timeout-minutes"])


def test_only_fetch_sees_the_hub_token_and_only_night_and_a_release_write_contents() -> None:
    with_token = {(w, j) for w, j, c in jobs() if "secrets.HF_TOKEN" in json.dumps(c.get("steps", []))}
    assert with_token == {("hub-tests.yml", "fetch")}
    writers = {(w, j) for w, j, c in jobs() if c["permissions"].get("contents") == "write" and "steps" in c}
    assert writers == {("hub-tests.yml", "night"), ("release.yml", "release")}


def test_no_checkout_leaves_its_token_and_none_names_a_head() -> None:
    for where, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", where
            assert "pull_request" not in json.dumps(step), where
            assert "head" not in json.dumps(step), where


def test_the_last_job_needs_all_the_others() -> None:
    for name, path in WORKFLOWS.items():
        every = load(path)["jobs"]
        assert set(every["conclude"]["needs"]) == set(every) - {"conclude"}, name
        assert every["conclude"]["steps"][-1]["env"]["NEEDS"] == "${{ toJSON(needs) }}"


def test_the_board_has_one_writer_at_a_time() -> None:
    groups = {(w, j): c["concurrency"] for w, j, c in jobs() if "concurrency" in c}
    writers = {key for key, group in groups.items() if group["group"].startswith(STATUS_COMMENT_GROUP)}
    assert writers == {("hub-tests-comment.yml", "start"), ("hub-tests.yml", "report")}
    assert all(groups[key]["queue"] == "max" for key in writers)
    assert all(group["cancel-in-progress"] == "false" for key, group in groups.items() if key[0] != "ci.yml")


def test_no_stranger_enters_a_queue_that_a_report_waits_in() -> None:
    """A gate waits in a queue of its own for each commenter. All later jobs need what the gate allows."""
    every = load(WORKFLOWS["hub-tests-comment.yml"])["jobs"]
    group = every["gate"]["concurrency"]["group"]
    assert "github.event.comment.user.id" in group
    assert "github.event.issue.number" in group
    others = {c["concurrency"]["group"].split("${{")[0] for _, j, c in jobs() if "concurrency" in c and j != "gate"}
    assert group.split("${{")[0] not in others
    assert "needs.gate.outputs.decision == 'run'" in every["start"]["if"]
    assert "needs.start.outputs.decision == 'run'" in every["run"]["if"]
    assert "statuses" not in every["gate"]["permissions"]


def test_a_run_at_an_older_commit_stands_in_nobodys_way() -> None:
    group = load(WORKFLOWS["hub-tests.yml"])["jobs"]["test"]["concurrency"]["group"]
    assert "needs.plan.outputs.sha" in group
    assert "pull-request" not in group


def test_results_are_uploaded_before_others_are_read() -> None:
    """Of two runs that end at once, at least the later reader sees both."""
    names = [step["name"] for step in load(WORKFLOWS["hub-tests.yml"])["jobs"]["report"]["steps"]]
    upload = next(i for i, name in enumerate(names) if name.startswith("Keep the results by commit"))
    assert names.index("Report") < upload < names.index("Publish")
    step = load(WORKFLOWS["hub-tests.yml"])["jobs"]["report"]["steps"][upload]
    assert step["with"]["name"] == commit_results.name_artifact("${{ needs.plan.outputs.sha }}")
    assert step["with"]["path"] == f"report/{commit_results.RESULT_JSON}"
    assert "continue-on-error" not in step


def test_what_the_reports_collect_is_not_what_a_subject_may_upload() -> None:
    """The pattern by which the report finds the test jobs' artifacts does not match its own two."""
    steps_of_report = load(WORKFLOWS["hub-tests.yml"])["jobs"]["report"]["steps"]
    (pattern,) = [step["with"]["pattern"] for step in steps_of_report if "pattern" in step.get("with", {})]
    for name in (commit_results.name_artifact("a" * 40), "report-of-hub-tests"):
        assert not fnmatch.fnmatch(name, pattern)


def fetch_deadline() -> float:
    """The seconds that the fetch job gives all its downloads together."""
    return max(float(job["env"]["HUB_TESTS_DEADLINE"]) for _, name, job in jobs() if name == "fetch")


def test_no_wait_is_longer_than_its_job() -> None:
    """Each wait that the verbs of a job can have, all together, ends before GitHub ends the job."""
    client = ApiSettings("o/r")
    lost = client.max_wait + client.timeout  # the last request that fails
    listings = report.MAX_LISTINGS * report.MAX_LISTING_PAUSE
    pushes = data_branch.MAX_PUSHES * 10 * client.write_interval
    waits = {
        "hub-tests gate": lost,
        "hub-tests start": lost,
        "hub-tests plan": 2 * lost,
        "hub-tests report": 2 * lost + listings,
        "hub-tests publish": lost + pushes,
        "hub-tests watch": watch.MAX_WAIT + lost,
        "hub-tests pack": 3 * pack.GIT_SECONDS,
        "hub-tests admit": admit.GIT_TIMEOUT + 5 * pack.GIT_SECONDS,
        "hub-tests conclude": 0.0,
        "hub-tests fetch": fetch_deadline(),
        "hub-tests run": 8400 + 2 * SECONDS_TO_WRITE,
    }
    for workflow, job, content in jobs():
        verbs = [v for step in content.get("steps", []) for v in re.findall(r"hub-tests [a-z]+", step.get("run", ""))]
        verbs = [verb for verb in verbs if verb in waits]
        if job == KEEPS_COMPILED:
            assert not any("run" in step for step in content["steps"]), "it only moves files"
        elif content.get("uses") is None and workflow not in OURS_ALONE:
            assert verbs, f"{workflow}:{job}"
            limit = 60 * int(content["timeout-minutes"])
            assert sum(waits[verb] for verb in verbs) + SETUP_SECONDS <= limit, f"{workflow}:{job}: {verbs}"


# The release


def test_a_release_publishes_what_was_built_and_checked_by_an_identity_alone() -> None:
    every = load(WORKFLOWS["release.yml"])["jobs"]
    assert load(WORKFLOWS["release.yml"])["on"] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    with_identity = {(w, j) for w, j, c in jobs() if (c["permissions"] or {}).get("id-token")}
    assert with_identity == {("release.yml", "publish")}
    publish = every["publish"]
    assert publish["environment"] == "release"
    assert set(publish["needs"]) == {"build", "check"}
    assert set(publish["permissions"]) == {"attestations", "id-token"}
    assert "secrets." not in json.dumps(every)
    runs = [step["run"] for step in publish["steps"] if "run" in step]
    assert runs == ['base64 --decode <<< "$SHA256" | sha256sum --check --strict']
    uses = [step["uses"].split("@")[0] for step in publish["steps"] if "uses" in step]
    assert uses[-2:] == ["actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]


def test_every_job_of_a_release_compares_the_files_with_the_builds_digests() -> None:
    for job, content in load(WORKFLOWS["release.yml"])["jobs"].items():
        names = [step.get("name", "") for step in content["steps"]]
        if "Get the files" in names:
            at = names.index("Get the files")
            assert names[at + 1] == "They are those that were built", job
            assert content["steps"][at + 1]["env"] == {"SHA256": "${{ needs.build.outputs.sha256 }}"}, job


def test_the_callers_comment_names_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert set(re.findall(r"@COMMIT # v(\S+)", adopting())) == {version}
