"""The admission hook: checks event, workflow and commit of a job on the runner, before its first step.

GitHub's runner calls it (ACTIONS_RUNNER_HOOK_JOB_STARTED) before any code of the job is on this machine. A non-zero
exit status ends the job. The hook needs the standard library only, and trusts only the policy that root rendered.
https://docs.github.com/en/actions/how-tos/manage-runners/self-hosted-runners/run-scripts
"""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_EVENT_BYTES = 8 << 20


def find_objections(
    policy: Mapping[str, Any], env: Mapping[str, str], event: Mapping[str, Any], *, uid: int, now: datetime
) -> Iterator[str]:
    """Yield each reason to refuse this job; `env` has the job's GITHUB_ variables."""
    yield from _check_origin(policy, env, uid)
    yield from _check_commit(policy, env)
    if env.get("GITHUB_EVENT_NAME") == "issue_comment":
        yield from _check_comment(policy, event, now)


def _check_origin(policy: Mapping[str, Any], env: Mapping[str, str], uid: int) -> Iterator[str]:
    repository, event = env.get("GITHUB_REPOSITORY", ""), env.get("GITHUB_EVENT_NAME", "")
    served = (
        repository == policy["repository"]
        if policy["repository"]
        else (repository.partition("/")[0].lower() == policy["organization"].lower())
    )
    if not served:
        yield f"repository {repository!r} is not served by this runner"
    if event not in policy["events"]:
        yield f"event {event!r} is not among {', '.join(policy['events'])}"
    if env.get("GITHUB_WORKFLOW_REF") not in policy["workflows"]:
        yield f"workflow {env.get('GITHUB_WORKFLOW_REF')!r} is not on the list of workflows"
    if uid in policy["store_uids"] and env.get("GITHUB_JOB") not in policy["store_jobs"]:
        yield f"job {env.get('GITHUB_JOB')!r} may not run where the store can be written"
    if uid in policy["nightly_uids"] and event != "schedule":
        yield f"event {event!r} may not run where compiled code is kept for other jobs: only the schedule may"


def _check_commit(policy: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[str]:
    """Check that workflow and event are of the same commit and branch."""
    sha, workflow_sha = env.get("GITHUB_SHA", ""), env.get("GITHUB_WORKFLOW_SHA", "")
    if not COMMIT.fullmatch(workflow_sha) or sha != workflow_sha:
        yield f"the workflow is of commit {workflow_sha!r}, the event of {sha!r}"
    if env.get("GITHUB_REF") != env.get("GITHUB_WORKFLOW_REF", "").rpartition("@")[2]:
        yield f"the event is on {env.get('GITHUB_REF')!r}, not on the workflow's branch"
    if policy["workflow_shas"] and workflow_sha not in policy["workflow_shas"]:
        yield f"workflow commit {workflow_sha!r} is not among the pinned ones"


def _check_comment(policy: Mapping[str, Any], event: Mapping[str, Any], now: datetime) -> Iterator[str]:
    comment, issue = event.get("comment") or {}, event.get("issue") or {}
    user = comment.get("user") or {}
    lines = str(comment.get("body") or "").splitlines() or [""]
    if event.get("action") != "created":
        yield f"the comment was {event.get('action')!r}, not created"
    if not issue.get("pull_request") or issue.get("state") != "open":
        yield "the comment is not on an open pull request"
    if user.get("type") != "User" or (event.get("sender") or {}).get("login") != user.get("login"):
        yield f"the comment is by {user.get('login')!r}, a {user.get('type')!r}"
    if comment.get("author_association") not in policy["associations"]:
        yield f"its author is {comment.get('author_association')!r} to the repository"
    if lines[0].split(" ")[0] != policy["command"]:
        yield f"its first line does not begin with {policy['command']}"
    yield from _check_named_commit(lines[0])
    yield from _check_age(str(comment.get("created_at") or ""), policy["max_event_age_hours"], now)


def _check_named_commit(line: str) -> Iterator[str]:
    for named in re.findall(r"--sha[ =]+(\S+)", line):
        if not COMMIT.fullmatch(named):
            yield f"--sha {named[:60]!r} is not a full commit"


def _check_age(created: str, hours: int, now: datetime) -> Iterator[str]:
    """Refuse an old comment: the pull request may have new commits that nobody reviewed."""
    try:
        age = now - datetime.fromisoformat(created)
    except (ValueError, TypeError):
        yield f"the comment's time {created[:60]!r} is not a time"
        return
    if not -3600 <= age.total_seconds() <= 3600 * hours:
        yield f"the comment is {age.total_seconds() / 3600:.0f} hours old; {hours} are allowed"


def main(arguments: list[str], env: Mapping[str, str]) -> int:
    """Check the job that the environment describes; refuse what cannot be checked."""
    try:
        policy = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        with Path(env["GITHUB_EVENT_PATH"]).open("rb") as file:
            event = json.loads(file.read(MAX_EVENT_BYTES))
        objections = list(find_objections(policy, env, event, uid=os.getuid(), now=datetime.now(UTC)))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as failure:
        objections = [f"the job cannot be checked: {failure!r}"]
    for objection in objections:
        # The text may quote the event: keep it to one line, so that it cannot hold a second workflow command.
        print("::error title=This runner refuses the job::" + re.sub(r"[\r\n%]", " ", objection))
    if not objections:
        print("admitted: event, workflow and commit are on this host's list")
    return 1 if objections else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
