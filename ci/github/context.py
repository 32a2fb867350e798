"""The environment of a step in Actions and the inputs of its workflow, read once into frozen records."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.consumers.registry import ConsumerName
from ci.errors import RequestError
from ci.github.api import ApiSettings
from ci.records import read_dict
from ci.subjects.described import SUFFIX
from ci.subjects.registry import SubjectName, find_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

BOT_LOGIN = "github-actions[bot]"
"""The login that writes with the token of a workflow."""

DATA_BRANCH = "hub-tests-data"


@dataclass(frozen=True)
class WorkflowInputs:
    """The inputs of `hub-tests.yml` that decide what is tested; the others only decide where."""

    models: tuple[str, ...] = ()
    layers: str = ""
    slice: str = ""
    subject: SubjectName = "fast_llm"
    subject_repository: str = ""
    subject_ref: str = ""
    pull_request: int = 0
    store: str = "directory"
    deep: bool = False
    consumer: ConsumerName | None = None
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """One step of one job of one workflow run.

    `poll_interval` is in seconds. `planned_sha` is the commit that the plan job has fixed, "" before it has.
    `subject_token` reads the subject's repository, where that is another private one.
    """

    api: ApiSettings
    server_url: str = "https://github.com"
    run_id: int | None = None
    run_attempt: int = 1
    event_name: str = ""
    actor: str = ""
    output_path: Path | None = None
    summary_path: Path | None = None
    bot_login: str = BOT_LOGIN
    allowed_logins: tuple[str, ...] = ()
    data_branch: str = DATA_BRANCH
    poll_interval: float = 30.0
    planned_sha: str = ""
    subject_token: str = field(default="", repr=False)
    inputs: WorkflowInputs = field(default_factory=WorkflowInputs)

    @property
    def repository(self) -> str:
        """The repository in which the workflow runs, `owner/name`."""
        return self.api.repository

    @property
    def run_url(self) -> str:
        """The page of this run, "" outside Actions."""
        return f"{self.server_url}/{self.repository}/actions/runs/{self.run_id}" if self.run_id else ""


def read_context(environ: Mapping[str, str]) -> Context:
    """Read the context from `GITHUB_*` and `HUB_TESTS_*`.

    Raises RequestError for a value that Actions would not set.
    """
    return Context(
        api=ApiSettings(
            repository=environ.get("GITHUB_REPOSITORY", ""),
            token=environ.get("GITHUB_TOKEN", ""),
            url=environ.get("GITHUB_API_URL") or "https://api.github.com",
            write_interval=_read_number(environ, "HUB_TESTS_WRITE_PAUSE", 1.0),
        ),
        server_url=(environ.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/"),
        run_id=int(_read_number(environ, "GITHUB_RUN_ID", 0)) or None,
        run_attempt=int(_read_number(environ, "GITHUB_RUN_ATTEMPT", 1)),
        event_name=environ.get("GITHUB_EVENT_NAME", ""),
        actor=environ.get("GITHUB_ACTOR", ""),
        output_path=_read_path(environ, "GITHUB_OUTPUT"),
        summary_path=_read_path(environ, "GITHUB_STEP_SUMMARY"),
        bot_login=environ.get("HUB_TESTS_BOT") or BOT_LOGIN,
        allowed_logins=tuple(word for word in re.split(r"[\s,]+", environ.get("HUB_TESTS_ALLOWED", "")) if word),
        data_branch=environ.get("HUB_TESTS_DATA_BRANCH") or DATA_BRANCH,
        poll_interval=_read_number(environ, "HUB_TESTS_POLL", 30.0),
        planned_sha=environ.get("HUB_TESTS_SHA", ""),
        subject_token=environ.get("HUB_TESTS_SUBJECT_TOKEN", ""),
        inputs=read_inputs(environ.get("HUB_TESTS_INPUTS", ""), _read_default_inputs(environ)),
    )


def read_inputs(text: str, defaults: Mapping[str, str] | None = None) -> WorkflowInputs:
    """Read `toJSON(inputs)` of the workflow; an input that is not set comes from `defaults`.

    Inputs that only decide where things run are ignored.
    """
    try:
        plain = json.loads(text or "null")
    except ValueError:
        raise RequestError("HUB_TESTS_INPUTS is not JSON: set it to toJSON(inputs)") from None
    plain = {} if plain is None else plain
    if not isinstance(plain, dict):
        raise RequestError(f"HUB_TESTS_INPUTS: expected an object, got {type(plain).__name__}")
    known = {f.name for f in fields(WorkflowInputs)}
    given = {key: value for key, value in plain.items() if value not in (None, "")}
    merged = {key.replace("-", "_"): value for key, value in {**(defaults or {}), **given}.items()}
    values = {key: _convert_input(key, value) for key, value in merged.items() if key in known}
    inputs = read_dict(WorkflowInputs, values, what="inputs of the workflow")
    _check_subject(inputs.subject)
    return inputs


def _check_subject(name: str) -> None:
    """Raise RequestError for an unknown subject, or one that trusted jobs would have to import.

    A description (a TOML file of the default branch) is read by the jobs that check that branch out.
    """
    if name.endswith(SUFFIX):
        return
    if ":" in name:
        raise RequestError(
            f"inputs of the workflow: subject {name}: no job but the sandboxed one may load an adapter; put its "
            f"description on the default branch (hub-tests subject describe {name}), and name that file"
        )
    find_adapter(name)


def _read_default_inputs(environ: Mapping[str, str]) -> dict[str, str]:
    """Read what replaces missing inputs.

    These are repository variables; and a nightly run is deep.
    """
    names = {
        "subject": "HUB_TESTS_SUBJECT",
        "subject-repository": "HUB_TESTS_SUBJECT_REPOSITORY",
        "required": "HUB_TESTS_REQUIRED",
        "consumer": "HUB_TESTS_CONSUMER",
    }
    nightly = {"deep": "true"} if environ.get("GITHUB_EVENT_NAME") == "schedule" else {}
    return nightly | {key: environ[name] for key, name in names.items() if environ.get(name)}


def _convert_input(key: str, value: Any) -> Any:
    """Convert an input: workflow_dispatch gives each one as a string, workflow_call gives numbers and booleans."""
    if key in ("models", "required"):
        return tuple(str(value).split())
    return {"true": True, "false": False}.get(str(value).lower(), value) if key == "deep" else value


def _read_number(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name, "")
    try:
        return float(value) if value else default
    except ValueError:
        raise RequestError(f"{name}: expected a number, got '{value[:50]}'") from None


def _read_path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None
