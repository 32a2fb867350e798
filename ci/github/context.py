"""What Actions' environment says, read once into a frozen record; and the workflow's inputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError
from ci.github.api import Api
from ci.records import read_dict
from ci.subjects.registry import SubjectName

if TYPE_CHECKING:
    from collections.abc import Mapping

BOT = "github-actions[bot]"
"""Who writes with the token of a workflow."""

DATA_BRANCH = "hub-tests-data"


@dataclass(frozen=True)
class Inputs:
    """The inputs of `hub-tests.yml` that decide what is tested; the others only say where."""

    models: tuple[str, ...] = ()
    layers: str = ""
    subject: SubjectName = "fast_llm"
    subject_repository: str = ""
    subject_ref: str = ""
    pull_request: int = 0
    store: str = "directory"
    deep: bool = False


@dataclass(frozen=True)
class Context:
    """One step of one job of one run."""

    api: Api
    server_url: str = "https://github.com"
    run_id: int | None = None
    run_attempt: int = 1
    event_name: str = ""
    actor: str = ""
    output: Path | None = None
    summary: Path | None = None
    bot: str = BOT
    allowed: tuple[str, ...] = ()
    data_branch: str = DATA_BRANCH
    poll: float = 30.0
    inputs: Inputs = field(default_factory=Inputs)

    @property
    def repository(self) -> str:
        """The repository in which the workflow runs, `owner/name`."""
        return self.api.repository

    @property
    def run_url(self) -> str:
        """This run's page, "" outside Actions."""
        return f"{self.server_url}/{self.repository}/actions/runs/{self.run_id}" if self.run_id else ""


def from_environ(environ: Mapping[str, str]) -> Context:
    """The context that `GITHUB_*` and `HUB_TESTS_*` describe.

    Raises RequestError for a variable that is not what Actions would set.
    """
    return Context(
        api=Api(
            repository=environ.get("GITHUB_REPOSITORY", ""),
            token=environ.get("GITHUB_TOKEN", ""),
            url=environ.get("GITHUB_API_URL") or "https://api.github.com",
            between_writes=_number(environ, "HUB_TESTS_WRITE_PAUSE", 1.0),
        ),
        server_url=(environ.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/"),
        run_id=int(_number(environ, "GITHUB_RUN_ID", 0)) or None,
        run_attempt=int(_number(environ, "GITHUB_RUN_ATTEMPT", 1)),
        event_name=environ.get("GITHUB_EVENT_NAME", ""),
        actor=environ.get("GITHUB_ACTOR", ""),
        output=_path(environ, "GITHUB_OUTPUT"),
        summary=_path(environ, "GITHUB_STEP_SUMMARY"),
        bot=environ.get("HUB_TESTS_BOT") or BOT,
        allowed=tuple(word for word in re.split(r"[\s,]+", environ.get("HUB_TESTS_ALLOWED", "")) if word),
        data_branch=environ.get("HUB_TESTS_DATA_BRANCH") or DATA_BRANCH,
        poll=_number(environ, "HUB_TESTS_POLL", 30.0),
        inputs=read_inputs(environ.get("HUB_TESTS_INPUTS", ""), _inputs_of_the_repository(environ)),
    )


def _inputs_of_the_repository(environ: Mapping[str, str]) -> dict[str, str]:
    """Repository variables that stand in for inputs where the clock starts the workflow and there are none."""
    names = {"subject": "HUB_TESTS_SUBJECT", "subject-repository": "HUB_TESTS_SUBJECT_REPOSITORY"}
    return {key: environ[name] for key, name in names.items() if environ.get(name)}


def read_inputs(text: str, otherwise: Mapping[str, str] | None = None) -> Inputs:
    """`toJSON(inputs)` of the workflow, over `otherwise`. Inputs that only say where things run are passed over."""
    try:
        plain = json.loads(text or "null")
    except ValueError:
        raise RequestError("HUB_TESTS_INPUTS is not JSON: set it to toJSON(inputs)") from None
    plain = {} if plain is None else plain
    if not isinstance(plain, dict):
        raise RequestError(f"HUB_TESTS_INPUTS: expected an object, got {type(plain).__name__}")
    known = {f.name for f in fields(Inputs)}
    filled = {key: value for key, value in plain.items() if value not in (None, "")}
    given = {key.replace("-", "_"): value for key, value in {**(otherwise or {}), **filled}.items()}
    wanted = {key: _plain(key, value) for key, value in given.items() if key in known}
    return read_dict(Inputs, wanted, what="inputs of the workflow")


def _plain(key: str, value: Any) -> Any:
    """workflow_dispatch gives every input as a word; workflow_call gives numbers and booleans."""
    if key == "models":
        return tuple(str(value).split())
    return {"true": True, "false": False}.get(str(value).lower(), value) if key == "deep" else value


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name, "")
    try:
        return float(value) if value else default
    except ValueError:
        raise RequestError(f"{name}: expected a number, got '{value[:50]}'") from None


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None
