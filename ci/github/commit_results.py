"""What each run found at one commit: a small artifact of each run, named after the commit, that later runs read.

The commit is in the name because GitHub files a run that a comment started under the default branch's commit. GitHub's
own facts tell who made an artifact: it counts only if it appeared while the report job of a run of hub-tests.yml was
running and no test job, which runs code of a subject, was. A run of a pull request's own workflow is never read.
https://docs.github.com/en/rest/actions/artifacts
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ci.consumers.registry import ConsumerName
from ci.errors import RequestError
from ci.github import workflow_runs
from ci.hub.layers import LayerRequest
from ci.hub.slices import Slice
from ci.records import STRICT, read_json
from ci.report.escape import clean, one_line
from ci.report.results import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.github.client import Client
    from ci.github.workflow_runs import WorkflowJob, WorkflowRun
    from ci.report.results import EntryResult, Results

ARTIFACT = "result-of-hub-tests"
RESULT_JSON = "result.json"
MAX_BYTES = 2**20
MAX_HEADLINE_CHARS = 200
STARTING_EVENTS = frozenset({"issue_comment", "workflow_dispatch", "schedule", "merge_group"})
"""Only somebody who may write can start these; `pull_request` would run the workflow files of a stranger."""


@dataclass(frozen=True)
class ModelResult:
    """One model's result in one run. `layers` and `slice` are the request's, None for the registry's.

    `refused_as_known`: the subject refused the model as the registry says, so that its neutral result blocks nothing.
    `started` is when GitHub started the run's attempt, ISO 8601, UTC.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    model: str
    verdict: Verdict
    headline: str = ""
    layers: LayerRequest | None = None
    deep: bool = False
    run_id: int = 0
    run_url: str = ""
    started: str = ""
    slice: Slice | None = None
    consumer: ConsumerName | None = None
    refused_as_known: bool = False

    @property
    def is_of_registry(self) -> bool:
        """Return whether the model was tested as the registry has it, and not another part of it."""
        return self.layers is None and self.slice is None

    def covers(self, other: ModelResult) -> bool:
        """Return whether this result is about all that `other` was about."""
        same = (self.model, self.layers, self.slice) == (other.model, other.layers, other.slice)
        served = not other.consumer or self.consumer == other.consumer
        return same and served and (self.deep or not other.deep)


@dataclass(frozen=True)
class RunResult:
    """The results of one attempt of one run at the commit `sha`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    sha: str
    run_id: int
    attempt: int
    models: tuple[ModelResult, ...]
    schema: int = 1


@dataclass(frozen=True)
class CommitResults:
    """The results of every run at a commit.

    `ignored` says which artifacts no report job made, `problems` which results cannot be read, one line each.
    """

    runs: tuple[RunResult, ...] = ()
    ignored: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[ModelResult, ...]:
        """Every result of every run."""
        return tuple(result for run in self.runs for result in run.models)

    def attempt_of(self, run_id: int) -> int:
        """Return the attempt of a run whose results are here, 0 if there are none."""
        return max((run.attempt for run in self.runs if run.run_id == run_id), default=0)


@dataclass(frozen=True)
class _ArtifactRun:
    id: int
    repository_id: int = 0
    head_repository_id: int = 0


@dataclass(frozen=True)
class _Artifact:
    id: int
    name: str
    size_in_bytes: int
    created_at: str | None = None
    expired: bool = False
    workflow_run: _ArtifactRun | None = None


def name_artifact(sha: str) -> str:
    """Return the name of the artifact with the results at the commit `sha`."""
    return f"{ARTIFACT}-{sha}"


def make_run_result(results: Results, attempt: int, started: str) -> RunResult:
    """Make the record of a run from its report."""
    request = results.plan.request
    models = tuple(
        ModelResult(
            model=entry.name,
            verdict=entry.verdict,
            headline=_find_headline(entry),
            layers=request.layers,
            slice=request.slice,
            deep=request.deep,
            consumer=request.consumer,
            refused_as_known=entry.refused_as_known,
            run_id=request.run_id or 0,
            run_url=request.run_url,
            started=started,
        )
        for entry in results.entries
    )
    return RunResult(request.sha, request.run_id or 0, attempt, models)


def read_commit_results(client: Client, sha: str, own: RunResult | None = None) -> CommitResults:
    """Read the results of every run at `sha`.

    `own` is this run's, which need not be listed yet.
    """
    runs, ignored, problems = ([own] if own else []), [], []
    for run_id, artifact in _list_artifacts(client, sha).items():
        if own and run_id == own.run_id:
            continue
        run = workflow_runs.get_run(client, run_id)
        if run is None:  # GitHub deletes a run's artifacts with it, so this answer contradicts the listing
            problems.append(f"results of run {run_id}: GitHub lists them, but not the run")
            continue
        if forgery := find_forgery(run, workflow_runs.list_jobs(client, run_id), artifact.created_at or ""):
            ignored.append(f"results of run {run_id} are left out: {forgery}")
            continue
        try:
            runs.append(_read_artifact(client, artifact, run_id, sha))
        except RequestError as error:
            problems.append(f"results of run {run_id}: {error}")
    return CommitResults(tuple(runs), tuple(ignored), tuple(problems))


def find_standing(results: Iterable[ModelResult]) -> tuple[ModelResult, ...]:
    """Find the results that no newer result replaces, in the order of their runs' starts.

    The start counts, not the end: so the outcome does not depend on which of two runs ends first.
    """
    ordered = sorted(results, key=lambda result: (result.started, result.run_id))
    return tuple(
        result
        for number, result in enumerate(ordered)
        if not any(later.covers(result) for later in ordered[number + 1 :])
    )


def find_forgery(run: WorkflowRun, jobs: Iterable[WorkflowJob], created_at: str) -> str:
    """Return why an artifact of `run` cannot be its report job's, "" if it can."""
    if run.event not in STARTING_EVENTS:
        return f"{run.event or 'an unknown event'} started the run"
    if not run.is_ours:
        return f"it is a run of {run.path or 'an unknown workflow'}"
    jobs = tuple(jobs)
    if not any(job.short_name == workflow_runs.REPORT_JOB and job.was_running_at(created_at) for job in jobs):
        return "no report job was running when it appeared"
    if tested := next((job for job in jobs if job.entry and job.was_running_at(created_at)), None):
        return f"it appeared while '{tested.short_name}' was running"
    return ""


def parse_run_result(content: bytes, sha: str, run_id: int) -> RunResult:
    """Parse the zip archive of an artifact.

    Raises RequestError if it is not the result of this run at this commit.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(RESULT_JSON) as file:
            plain = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise RequestError(f"the artifact cannot be read: {error}") from None
    if len(plain) > MAX_BYTES:
        raise RequestError(f"{RESULT_JSON} has more than {MAX_BYTES} bytes")
    result = read_json(RunResult, plain, what=RESULT_JSON)
    if (result.sha, result.run_id) != (sha, run_id) or any(model.run_id != run_id for model in result.models):
        raise RequestError(f"{RESULT_JSON} is about another run or commit")
    return result


def _list_artifacts(client: Client, sha: str) -> dict[int, _Artifact]:
    """List the artifacts that the repository's own runs made: the newest of each run."""
    newest: dict[int, _Artifact] = {}
    listed = client.paginate(_Artifact, "/actions/artifacts", key="artifacts", name=name_artifact(sha))
    for artifact in sorted(listed, key=lambda artifact: artifact.id):
        run = artifact.workflow_run
        if not artifact.expired and run and run.head_repository_id == run.repository_id:
            newest[run.id] = artifact
    return newest


def _read_artifact(client: Client, artifact: _Artifact, run_id: int, sha: str) -> RunResult:
    if artifact.size_in_bytes > MAX_BYTES:
        raise RequestError(f"the artifact has {artifact.size_in_bytes} bytes")
    return parse_run_result(client.download(f"/actions/artifacts/{artifact.id}/zip", MAX_BYTES), sha, run_id)


def _find_headline(entry: EntryResult) -> str:
    failed = (case.headline for case in entry.cases if case.outcome in ("failed", "missing") and case.headline)
    return one_line(clean(next(failed, "") or entry.label), MAX_HEADLINE_CHARS) if entry.verdict != "passed" else ""
