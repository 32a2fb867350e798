"""One run of one candidate: `hub-tests run` in a process of its own, and its report read as an answer."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.bisect.session import Probed
from ci.checkpoints import fetch_checkpoints, write_checkpoints
from ci.environments.description import load_description
from ci.environments.model_environments import choose_environment
from ci.environments.newest import format_description
from ci.environments.source import is_git_address, split_address
from ci.errors import InfrastructureError, RequestError
from ci.judge_environment import START
from ci.models import HubModel
from ci.report.report_files import REPORT_JSON, read_report
from ci.run_options import RunOptions
from ci.settings import Settings

if TYPE_CHECKING:
    from ci.report.results import Results

NOT_BUILT = re.compile(
    r"the subject's [\w ]{1,40} (?:failed: |printed more than |took longer than |left processes |was ended when )"
    r"|its \w+/ has no worker program|No solution found when resolving"
)
"""How a build's failure begins, a checkout from before the worker program, and versions that exclude each other."""
SAID = 200


@dataclass(frozen=True)
class RunProbe:
    """Runs candidates of one kind for one model, each into a folder of its own below `folder`."""

    model: HubModel
    over: str
    options: RunOptions
    settings: Settings
    environ: Mapping[str, str]
    folder: Path
    format_words: Callable[[RunOptions], list[str]]

    def __call__(self, candidate: str) -> Probed:
        """Run a candidate and return its answer. Raises InfrastructureError where the run says nothing about it."""
        report = self.folder / re.sub(r"[^\w.+-]", "_", candidate)[:80]
        report.mkdir(parents=True, exist_ok=True)
        (report / REPORT_JSON).unlink(missing_ok=True)
        options = self._choose_options(candidate, report)
        words = ["run", self.model.name, *self.format_words(options), f"--report={report}"]
        command = [sys.executable, "-I", "-c", START, str(Path(__file__).parents[2]), *words]
        with (report / "run.log").open("wb") as log:
            code = subprocess.run(  # noqa: S603 -- our own interpreter
                command, env=dict(self.environ), stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        if (report / REPORT_JSON).is_file():
            return read_answer(read_report(report))
        return read_missing_report(code, (report / "run.log").read_text("utf-8", "replace"))

    def _choose_options(self, candidate: str, report: Path) -> RunOptions:
        """Return the options with which only the candidate differs from the other runs."""
        if self.over == "commits":
            return replace(self.options, subject_source=name_source(self.options.subject_source or "", candidate))
        if self.over == "hub":
            models = [replace(self.model, revision=candidate)]
            fetched = fetch_checkpoints(models, self.settings, layers=self.options.layers, part=self.options.slice)
            for error in fetched.errors.values():
                raise error
            write_checkpoints(fetched, report / "checkpoints.json")
            return replace(self.options, checkpoints=report / "checkpoints.json")
        own = choose_environment(self.model, self.options) != self.options.environment
        file = str(self._write_environment(candidate, report))
        return replace(self.options, environment=file, only_environment=own or self.options.only_environment)

    def _write_environment(self, version: str, report: Path) -> Path:
        description = load_description(choose_environment(self.model, self.options) or "")
        name = f"{description.name[:40]}-bisect"
        pins = (*description.requirements, f"{self.over}=={version}")
        path = report / "environment.toml"
        path.write_text(format_description(replace(description, name=name, requirements=pins)), encoding="utf-8")
        return path


def name_source(source: str, commit: str) -> str:
    """Return the address of a commit: of the address that was given, or of a checkout on this machine."""
    address = split_address(source)[0] if is_git_address(source) else Path(source).absolute().as_uri()
    return f"{address}@{commit}"


def read_answer(results: Results) -> Probed:
    """Read a report as an answer: what could not be built is none, and neither is the machine's own problem."""
    if results.verdict == "passed":
        return Probed("good")
    refused = [case for entry in results.entries for case in entry.cases if case.outcome == "refused"]
    if refused and results.verdict == "neutral" and not results.causes:  # known, and still what is searched for
        return Probed("bad", tuple(case.name for case in refused), " ".join(refused[0].headline.split())[:SAID])
    title = " ".join(results.causes[0].title.split())[:SAID] if results.causes else "no test reported"
    if results.verdict == "neutral":
        raise InfrastructureError(f"the run gave no answer: {title}; run the same command again to go on")
    cases = [case for entry in results.entries for case in entry.cases]
    if any(NOT_BUILT.search(case.headline) or NOT_BUILT.search(case.detail) for case in cases if case.red):
        return Probed("skip", said=f"cannot be built: {title}")
    return Probed("bad", tuple(case.name for case in cases if case.red), title)


def read_missing_report(code: int, log: str) -> Probed:
    """Read the end of a run without a report: an environment that cannot be built, or a mistake of the request."""
    said = next(
        (line for line in reversed(log.splitlines()) if line.startswith("hub-tests: ")), "no report was written"
    )
    said = said.removeprefix("hub-tests: ")[:SAID]
    if NOT_BUILT.search(said):
        return Probed("skip", said=said)
    if code == RequestError.exit_code:
        raise RequestError(said)
    raise InfrastructureError(f"{said}; run the same command again to go on")
