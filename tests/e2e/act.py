"""The workflow files, run by act in host mode, and what became of each job. Nothing leaves this machine.

act differs from GitHub (it knows no `queue`, ignores `types:`, permissions, concurrency and job time limits, and says
that every leg of a matrix failed once one did); what it leaves out is covered by test_workflows.py. A job that it
skips leaves no trace, so tests compare the exact list of jobs that ran.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.fake_github import NOW, REPORTED, TOKEN, State

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LABELS = ("ubuntu-24.04", "self-hosted", "gpu", "hub-tests-store")
RUN_ID = 777
HUB_TOKEN = "hf_of_the_fetch_job_alone"
LIMIT_SECONDS = 1200.0
USES = re.compile(r"uses: (actions/[\w-]+(?:/[\w-]+)?)@([0-9a-f]{40})")


@dataclass
class Outcome:
    """What ran: each job's name and result in the order of their ends, the log's lines, act's exit status."""

    jobs: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    status: int = 0

    @property
    def log(self) -> str:
        return "\n".join(self.lines)


@dataclass
class WorkflowHost:
    """A machine for the workflows: repositories, artifacts, caches and a store below `root`."""

    root: Path
    api_url: str
    hub_url: str
    state: State
    run_id: int = RUN_ID
    attempt: int = 1
    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    callers: dict[str, str] = field(default_factory=dict)
    limit: float = LIMIT_SECONDS

    def run(self, workflow: str, event: str, payload: Mapping[str, Any]) -> Outcome:
        """Run `.github/workflows/{workflow}` on an event."""
        place = self._checkout()
        recorded = self.root / "event.json"
        recorded.write_text(json.dumps(payload), encoding="utf-8")
        called = {"path": f"{self.state.repository}/.github/workflows/hub-tests.yml@main", "sha": "a" * 40}
        known = {"event": event, "path": f".github/workflows/{workflow}", "referenced_workflows": [called]}
        known |= {"run_started_at": self._now}
        self.state.runs[self.run_id] = {"status": "in_progress", "run_attempt": self.attempt, **known}
        self.state.uploads = self.root / "artifacts-by-run"
        command = [str(Path(sys.executable).with_name("act")), event, "--eventpath", str(recorded), "--json"]
        command += ["--workflows", f".github/workflows/{workflow}", "--no-cache-server", "--actor", "alice"]
        command += [word for label in LABELS for word in ("--platform", f"{label}=-self-hosted")]
        command += [word for action, sha in used() for word in ("--local-repository", stand_in(action, sha))]
        command += [word for name, value in self._variables().items() for word in ("--var", f"{name}={value}")]
        command += [word for name, value in self._job_environment().items() for word in ("--env", f"{name}={value}")]
        command += ["--secret", f"GITHUB_TOKEN={TOKEN}", "--secret", f"HF_TOKEN={HUB_TOKEN}"]
        outcome = self._watched(command, place)
        self.state.runs[self.run_id]["status"] = "completed"
        return outcome

    def _checkout(self) -> Path:
        """The repository for act: our workflow files, less the keys that act does not know, and callers'."""
        place = self.root / "repository"
        shutil.rmtree(place, ignore_errors=True)
        (place / ".github/workflows").mkdir(parents=True)
        for path in (ROOT / ".github/workflows").glob("*.yml"):
            text = re.sub(r"^ +(queue|cache-mode): .*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            (place / ".github/workflows" / path.name).write_text(text, encoding="utf-8")
        for name, text in self.callers.items():
            (place / ".github/workflows" / name).write_text(text, encoding="utf-8")
        git(place, "init", "--quiet", "--initial-branch=main")
        git(place, "add", ".")
        git(place, "commit", "--quiet", "--message=workflows")
        return place

    def _variables(self) -> dict[str, str]:
        known = {
            "HUB_TESTS_SUBJECT": "reference",
            "HUB_TESTS_SUBJECT_PYTHON": str(self.root / "venv/bin/python"),
            "HUB_TESTS_DEVICE": "cpu",
            "HUB_TESTS_STORE": str(self.root / "store"),
            "HUB_TESTS_REQUIRED": "smollm2",
        }
        return known | self.variables

    def _job_environment(self) -> dict[str, str]:
        return {
            "GITHUB_API_URL": self.api_url,
            "GITHUB_RUN_ID": str(self.run_id),
            "GITHUB_RUN_ATTEMPT": str(self.attempt),
            "GITHUB_REPOSITORY": self.state.repository,
            "HF_ENDPOINT": self.hub_url,
            "HUB_TESTS_WRITE_PAUSE": "0",
            "HUB_TESTS_POLL": "0.2",
            "E2E_ROOT": str(self.root),
            "E2E_ACTIONS": str(HERE / "actions"),
            "E2E_PYTHON": sys.executable,
            "PATH": os.pathsep.join([str(self.root / "bin"), *os.environ["PATH"].split(os.pathsep)]),
            **self.environment,
        }

    def _watched(self, command: list[str], place: Path) -> Outcome:
        """Run act, and let the stand-in for GitHub know of every job as it begins and ends."""
        outcome = Outcome()
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull}
        with subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as act:
            timer = threading.Timer(self.limit, lambda: os.killpg(act.pid, signal.SIGKILL))
            timer.start()
            try:
                for line in act.stdout or ():
                    self._heard(line, outcome)
            finally:
                timer.cancel()
        outcome.status = act.returncode
        return outcome

    def _heard(self, line: str, outcome: Outcome) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            said = {"msg": line}
        outcome.lines.append(f"[{said.get('job', '')}] {str(said.get('msg', '')).rstrip()}")
        if "jobID" not in said:
            return
        name = job_name(said)
        job = self._job(name)
        if said.get("level") == "error":
            job["failed"] = True
        if "jobResult" in said:
            result = "failure" if job.pop("failed", False) else "success"
            outcome.jobs[name] = result
            job.update(status="completed", conclusion=result, completed_at=job["started_at"])

    @property
    def _now(self) -> str:
        """An attempt a day."""
        return NOW.replace("-02T", f"-{self.attempt + 1:02d}T")

    def _job(self, name: str) -> dict[str, Any]:
        jobs = self.state.jobs.setdefault(self.run_id, [])
        for job in jobs:
            if job["name"] == name and job["run_attempt"] == self.attempt:
                return job
        number = len(jobs) + 1
        jobs.append(
            {
                "id": number,
                "run_id": self.run_id,
                "name": name,
                "status": "in_progress",
                "conclusion": None,
                "html_url": f"https://github.com/{self.state.repository}/actions/runs/{self.run_id}/job/{number}",
                "started_at": REPORTED.format(self.attempt + 1) if name == "report" else self._now,
                "completed_at": None,
                "run_attempt": self.attempt,
                "runner_name": "machine-1",
                "labels": ["self-hosted", "gpu"],
            }
        )
        return jobs[-1]


def job_name(said: Mapping[str, Any]) -> str:
    """The job's name as GitHub's API would have it, less the names of calling jobs."""
    entry = (said.get("matrix") or {}).get("name")
    return f"{said['jobID']} {entry}" if entry else str(said["jobID"])


def used() -> list[tuple[str, str]]:
    """Every upstream action that the workflows use, with its commit."""
    matches = {match for path in (ROOT / ".github").rglob("*.yml") for match in USES.findall(path.read_text("utf-8"))}
    return sorted(matches)


def stand_in(action: str, sha: str) -> str:
    """act's option for using our own action instead of upstream's."""
    repository = "/".join(action.split("/")[:2])
    return f"{repository}@{sha}={HERE / 'actions' / repository.split('/')[1]}"


def git(place: Path, *words: str) -> str:
    """git as somebody, without anybody's configuration."""
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": f"e2e@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(
        ["git", "-C", str(place), *words], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
