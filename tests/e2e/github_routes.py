"""What the stand-in for GitHub answers, path by path of GitHub's own description."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.e2e.github_state import BOT, REPORTED, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.github_state import Request, State


@dataclass(frozen=True)
class Redirect:
    """An answer that sends the client to another address, where `content` is."""

    content: bytes


REPO = "/repos/{owner}/{repo}"
Handler = Callable[..., tuple[int, Any]]
ROUTES: list[tuple[str, str, re.Pattern[str], Handler]] = []


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a handler for `path` of GitHub's description."""

    def register(handler: Handler) -> Handler:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(REPO + path))
        ROUTES.append((method, REPO + path, re.compile(pattern), handler))
        return handler

    return register


def ours(state: State, owner: str, repo: str) -> None:
    if f"{owner}/{repo}" != state.repository:
        raise RefusedError(404)


def user(login: str) -> dict[str, Any]:
    return {"login": login, "type": "Bot" if login.endswith("[bot]") else "User"}


def page(request: Request, items: list[Any]) -> list[Any]:
    size, number = int(request.query.get("per_page", 30)), int(request.query.get("page", 1))
    return items[size * (number - 1) : size * number]


@route("GET", "/collaborators/{username}/permission")
def permission(state: State, _: Request, owner: str, repo: str, username: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    role = state.roles.get(username, "read")
    legacy = {"maintain": "write", "triage": "read"}.get(role, role)
    return 200, {"permission": state.bases.get(username, legacy), "role_name": role, "user": user(username)}


@route("GET", "/pulls/{pull_number}")
def pull(state: State, _: Request, owner: str, repo: str, pull_number: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    if int(pull_number) not in state.pulls:
        raise RefusedError(404)
    found = state.pulls[int(pull_number)]
    head_repo = {"full_name": found["repository"]} if found["repository"] else None
    return 200, {
        "number": int(pull_number),
        "state": found["state"],
        "head": {"sha": found["sha"], "ref": "feature", "label": "x:feature", "repo": head_repo, "user": user("x")},
    }


@route("GET", "/issues/{issue_number}/comments")
def comments(state: State, request: Request, owner: str, repo: str, issue_number: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    return 200, page(request, [shown(c) for c in state.comments if c["issue"] == int(issue_number)])


@route("POST", "/issues/{issue_number}/comments")
def new_comment(state: State, request: Request, owner: str, repo: str, issue_number: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    made = {"id": 9000 + len(state.comments), "issue": int(issue_number), "user": BOT, "body": request.body["body"]}
    if len(made["body"]) > 65536:
        raise RefusedError(422, "body is too long (maximum is 65536 characters)")
    state.comments.append(made)
    return 201, shown(made)


@route("PATCH", "/issues/comments/{comment_id}")
def edit_comment(state: State, request: Request, owner: str, repo: str, comment_id: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    for comment in state.comments:
        if comment["id"] == int(comment_id):
            comment["body"] = request.body["body"]
            return 200, shown(comment)
    raise RefusedError(404)


def shown(comment: dict[str, Any]) -> dict[str, Any]:
    url = f"https://github.invalid/pull/{comment['issue']}#issuecomment-{comment['id']}"
    return {"id": comment["id"], "html_url": url, "body": comment["body"], "user": user(comment["user"])}


@route("POST", "/issues/comments/{comment_id}/reactions")
def react(state: State, request: Request, owner: str, repo: str, comment_id: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    reaction = (int(comment_id), BOT, request.body["content"])
    had = reaction in state.reactions
    if not had:
        state.reactions.append(reaction)
    return 200 if had else 201, {"id": 1, "content": reaction[2], "user": user(BOT)}


@route("GET", "/actions/runs/{run_id}")
def run(state: State, _: Request, owner: str, repo: str, run_id: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    if int(run_id) not in state.runs:
        raise RefusedError(404)
    return 200, {"id": int(run_id), "html_url": f"https://github.invalid/runs/{run_id}", **state.runs[int(run_id)]}


@route("POST", "/actions/runs/{run_id}/cancel")
def cancel(state: State, _: Request, owner: str, repo: str, run_id: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    if state.runs.get(int(run_id), {}).get("status") == "completed":
        raise RefusedError(409, "Cannot cancel a workflow run that is completed.")
    state.cancelled.append(int(run_id))
    return 202, {}


@route("GET", "/actions/runs/{run_id}/jobs")
def jobs(state: State, request: Request, owner: str, repo: str, run_id: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    found = state.jobs.get(int(run_id), [])
    return 200, {"total_count": len(found), "jobs": page(request, [dict(job) for job in found])}


@route("GET", "/commits/{ref}")
def commit_of(state: State, _: Request, owner: str, repo: str, ref: str) -> tuple[int, Any]:
    sha = state.commits.get((f"{owner}/{repo}", ref))
    if sha is None:
        raise RefusedError(422, f"No commit found for SHA: {ref}")
    return 200, {"sha": sha}


@route("POST", "/statuses/{sha}")
def status(state: State, request: Request, owner: str, repo: str, sha: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    state.statuses.append({"sha": sha, **request.body})
    return 201, {"id": len(state.statuses), "state": request.body["state"]}


@route("GET", "/commits/{ref}/statuses")
def statuses(state: State, request: Request, owner: str, repo: str, ref: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    fields = ("state", "context", "description", "target_url")
    found = [{key: s.get(key) for key in fields} | {"creator": user(BOT)} for s in state.statuses if s["sha"] == ref]
    return 200, page(request, found[::-1])


@route("GET", "/commits/{commit_sha}/branches-where-head")
def branches(state: State, _: Request, owner: str, repo: str, commit_sha: str) -> tuple[int, Any]:
    heads = [name for name, sha in state.refs.items() if sha == commit_sha and name.startswith("heads/")]
    commit = {"sha": commit_sha, "url": "https://x.invalid"}
    return 200, [{"name": name.removeprefix("heads/"), "commit": commit, "protected": False} for name in heads]


@route("GET", "/compare/{basehead}")
def compare(state: State, _: Request, owner: str, repo: str, basehead: str) -> tuple[int, Any]:
    base = basehead.split("...")[0]
    if base not in {*state.commits.values(), *state.ancestors}:
        raise RefusedError(404)
    return 200, {"status": "ahead" if base in state.ancestors else "diverged"}


@route("GET", "/actions/artifacts")
def artifacts(state: State, request: Request, owner: str, repo: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    found = [_shown_artifact(a) for a in _all_artifacts(state) if a["name"] == request.query.get("name", a["name"])]
    return 200, {"total_count": len(found), "artifacts": page(request, found[::-1])}


@route("GET", "/actions/artifacts/{artifact_id}/{archive_format}")
def archive(
    state: State, _: Request, owner: str, repo: str, artifact_id: str, archive_format: str
) -> tuple[int, Redirect]:
    ours(state, owner, repo)
    found = [artifact for artifact in _all_artifacts(state) if str(artifact["id"]) == artifact_id]
    if not found:
        raise RefusedError(410, "Artifact has expired")
    return 302, Redirect(found[0]["content"])


def _all_artifacts(state: State) -> list[dict[str, Any]]:
    """What tests have put there, and what the stand-in for upload-artifact has."""
    found = list(state.artifacts)
    for number, folder in enumerate(sorted(state.uploads.glob("*/*")) if state.uploads else []):
        run_id = int(folder.parent.name)
        created_at = REPORTED.format(int(state.runs[run_id]["run_attempt"]) + 1)
        made = {"id": 5000 + number, "run": run_id, "name": folder.name, "created_at": created_at}
        found.append(made | {"content": _zipped(folder)})
    return found


def _shown_artifact(artifact: dict[str, Any]) -> dict[str, Any]:
    head = artifact.get("head_repository", 700700700)
    return {
        "id": artifact["id"],
        "name": artifact["name"],
        "size_in_bytes": len(artifact["content"]),
        "expired": artifact.get("expired", False),
        "created_at": artifact["created_at"],
        "workflow_run": {"id": artifact["run"], "repository_id": 700700700, "head_repository_id": head},
    }


def _zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return packed.getvalue()


@route("GET", "/issues")
def issues(state: State, request: Request, owner: str, repo: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    query = request.query
    found = [
        issue
        for issue in state.issues
        if issue["state"] == query.get("state", "open")
        and query.get("creator") in (None, issue["user"]["login"])
        and ("labels" not in query or query["labels"] in [label["name"] for label in issue["labels"]])
    ]
    return 200, page(request, [dict(issue) for issue in found])


@route("POST", "/issues")
def new_issue(state: State, request: Request, owner: str, repo: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    number = 100 + len(state.issues)
    state.issues.append(
        {
            "number": number,
            "state": "open",
            "title": request.body["title"],
            "body": request.body["body"],
            "labels": [{"name": name} for name in request.body.get("labels", [])],
            "user": user(BOT),
            "html_url": f"https://github.invalid/issues/{number}",
        }
    )
    return 201, dict(state.issues[-1])


@route("PATCH", "/issues/{issue_number}")
def edit_issue(state: State, request: Request, owner: str, repo: str, issue_number: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    for issue in state.issues:
        if issue["number"] == int(issue_number):
            issue.update({key: value for key, value in request.body.items() if key in ("title", "body", "state")})
            return 200, dict(issue)
    raise RefusedError(404)


@route("GET", "/git/ref/{ref}")
def ref(state: State, _: Request, owner: str, repo: str, ref: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    if ref not in state.refs:
        raise RefusedError(404)
    return 200, {"ref": f"refs/{ref}", "object": {"type": "commit", "sha": state.refs[ref], "url": "https://x.invalid"}}


@route("POST", "/git/refs")
def new_ref(state: State, request: Request, owner: str, repo: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    name = request.body["ref"].removeprefix("refs/")
    if name in state.refs:
        raise RefusedError(422, "Reference already exists")
    state.refs[name] = request.body["sha"]
    return 201, {"ref": f"refs/{name}", "object": {"sha": request.body["sha"]}}


@route("PATCH", "/git/refs/{ref}")
def move_ref(state: State, request: Request, owner: str, repo: str, ref: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    parents = state.objects[request.body["sha"]]["parents"]
    if state.refs[ref] not in parents and not request.body.get("force"):
        raise RefusedError(422, "Update is not a fast forward")
    state.refs[ref] = request.body["sha"]
    return 200, {"ref": f"refs/{ref}", "object": {"sha": request.body["sha"]}}


@route("GET", "/git/commits/{commit_sha}")
def git_commit(state: State, _: Request, owner: str, repo: str, commit_sha: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    return 200, {"sha": commit_sha, "tree": {"sha": state.objects[commit_sha]["tree"]}}


@route("POST", "/git/commits")
def new_commit(state: State, request: Request, owner: str, repo: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    sha = state.put(
        {"tree": request.body["tree"], "parents": request.body["parents"], "message": request.body["message"]}
    )
    return 201, {"sha": sha, "tree": {"sha": request.body["tree"]}}


@route("GET", "/git/trees/{tree_sha}")
def tree(state: State, _: Request, owner: str, repo: str, tree_sha: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    nodes = [
        {"path": path, "mode": "100644", "type": "blob", "sha": blob, "size": len(state.objects[blob])}
        for path, blob in state.objects[tree_sha].items()
    ]
    return 200, {"sha": tree_sha, "url": "https://x.invalid", "tree": nodes, "truncated": False}


@route("POST", "/git/trees")
def new_tree(state: State, request: Request, owner: str, repo: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    nodes = dict(state.objects[request.body["base_tree"]]) if "base_tree" in request.body else {}
    nodes |= {node["path"]: state.put(node["content"]) for node in request.body["tree"]}
    sha = state.put(nodes)
    return 201, {"sha": sha, "url": "https://x.invalid", "tree": [], "truncated": False}


@route("GET", "/git/blobs/{file_sha}")
def blob(state: State, _: Request, owner: str, repo: str, file_sha: str) -> tuple[int, Any]:
    ours(state, owner, repo)
    content = base64.encodebytes(state.objects[file_sha].encode()).decode()
    return 200, {"sha": file_sha, "content": content, "encoding": "base64", "url": "https://x.invalid", "size": 1}
