"""The answers of the Hub and of its CDN: from a request to a reply, without sockets.

Protocol facts: https://huggingface.co/docs/hub/api and huggingface_hub's client (`file_download.py`, `hf_api.py`,
`utils/_http.py`), which reads every field and header below. Files in LFS answer 302 to a signed URL on a second
origin, plain ones carry their bytes. A renamed model answers 307 to its new name. Xet headers are given only on demand,
so that clients use plain HTTP.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from tests.standin.repos import Commit, Repo, StoredFile, lfs_pointer
from tests.standin.wire import EXPIRED, Reply, Request, Slice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MODEL = r"(?P<model>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = {
    name: re.compile(pattern)
    for name, pattern in {
        "info": rf"/api/models/{MODEL}(/revision/{REVISION})?",
        "tree": rf"/api/models/{MODEL}/tree/{REVISION}(/(?P<file>.+))?",
        "paths": rf"/api/models/{MODEL}/paths-info/{REVISION}",
        "refs": rf"/api/models/{MODEL}/refs",
        "commits": rf"/api/models/{MODEL}/commits/{REVISION}",
        "cached": rf"/api/resolve-cache/models/{MODEL}/{REVISION}/(?P<file>.+)",
        "resolve": rf"/{MODEL}/resolve/{REVISION}/(?P<file>.+)",
    }.items()
}
GZIPPED = (".json", ".txt", ".md", ".jinja")


@dataclass
class Catalog:
    """The state behind both origins. `tokens` maps a valid token to the gated repositories that it may read.

    `url_life` is a signed URL's life in seconds; `relative_redirects` makes small files take the detour over
    `/api/resolve-cache` that the Hub takes since 2025; `page_size` limits a page of a tree. `renamed` maps old to new
    model ids. `lists_digests=False` leaves LFS out of the listing; `xet` adds the headers of Xet-backed files.
    """

    cdn: str
    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    url_life: float = 3600
    page_size: int = 1000
    relative_redirects: bool = False
    renamed: dict[str, str] = field(default_factory=dict)
    lists_digests: bool = True
    xet: bool = False
    key: bytes = b"0"

    def sign_url(self, repo: Repo, file: StoredFile) -> str:
        """Return a URL on the CDN that gives anybody the file for `url_life` seconds."""
        owner = hashlib.sha1(repo.model_id.encode()).hexdigest()
        path = f"/repos/{owner}/{file.sha256}"
        query = {"response-content-disposition": f'inline; filename="{file.path}"'}
        query["Expires"] = str(int(time.time() + self.url_life))
        query["Signature"] = self.make_signature(path, query)
        return f"{self.cdn}{path}?{urlencode(query)}"

    def make_signature(self, path: str, query: Mapping[str, str]) -> str:
        """Return the signature which proves that the Hub gave out a URL."""
        signed = f"{path}\n{query.get('Expires')}\n{query.get('response-content-disposition')}"
        return hmac.new(self.key, signed.encode(), "sha256").hexdigest()


def answer_hub(catalog: Catalog, request: Request) -> Reply:
    """Answer a request to the Hub."""
    if request.path == "/api/agent-harnesses":  # huggingface_hub asks when telemetry is not switched off
        return _make_json({"standardEnvVars": [], "harnesses": {}})
    route, matched = _match_route(request.path)
    if matched is None:
        return _make_error(404, None, "Sorry, we can't find the page you are looking for.")
    token = request.headers.get("authorization", "").removeprefix("Bearer ") or None
    if token is not None and token not in catalog.tokens:
        return _make_error(401, None, "Invalid credentials in Authorization header")
    if new := catalog.renamed.get(matched["model"]):
        return Reply(307, {"Location": request.path.replace(matched["model"], new, 1)}, b"Temporary Redirect")
    repo = catalog.repos.get(matched["model"])
    if repo is None:
        message = "Repository not found" if token else "Invalid username or password."
        return _make_error(404 if token else 401, "RepoNotFound", message)
    if route == "refs":
        return _make_json(_list_refs(repo))
    revision = unquote(matched.get("revision") or "main")
    commit = repo.find_commit(revision)
    if commit is None:
        return _make_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if route in ("resolve", "cached") and repo.gated and repo.model_id not in catalog.tokens.get(token or "", ()):
        return _refuse_gated(repo, token)
    return _answer_revision(catalog, request, route, repo, commit)


def _match_route(path: str) -> tuple[str, dict[str, Any] | None]:
    for name, pattern in ROUTES.items():
        if match := pattern.fullmatch(path):
            return name, match.groupdict()
    return "", None


def _answer_revision(catalog: Catalog, request: Request, route: str, repo: Repo, commit: Commit) -> Reply:
    if route == "info":
        return _make_json(_make_info(catalog, repo, commit, blobs=_read_flag(request.query, "blobs")))
    if route == "commits":
        return _answer_commits(catalog, request, repo, commit)
    if route == "tree":
        return _answer_tree(catalog, request, commit)
    if route == "paths":
        wanted = [value for key, value in parse_qsl(request.body.decode()) if key == "paths"]
        return _make_json([entry for entry in _list_entries(commit) if entry["path"] in wanted])
    return _answer_file(catalog, request, route, repo, commit)


def _answer_file(catalog: Catalog, request: Request, route: str, repo: Repo, commit: Commit) -> Reply:
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes", "Vary": "Origin"}
    file = commit.files.get(request.file or "")
    if file is None:
        return _make_error(404, "EntryNotFound", "Entry not found", headers)
    if file.lfs:
        linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        if catalog.xet:
            linked |= _make_xet_headers(catalog, repo, commit, file)
        location = catalog.sign_url(repo, file)
        return Reply(302, headers | linked | {"Location": location}, f"Found. Redirecting to {location}".encode())
    headers["ETag"] = f'"{file.etag}"'
    if catalog.relative_redirects and route == "resolve":
        query = urlencode({request.path: "", "etag": headers["ETag"]})
        location = f"/api/resolve-cache/models/{repo.model_id}/{commit.id}/{quote(file.path)}?{query}"
        return Reply(307, headers | {"Location": location}, b"Temporary Redirect")
    gzipped = "gzip" in request.headers.get("accept-encoding", "") and file.path.endswith(GZIPPED)
    if gzipped and request.range is None:
        body = gzip.compress(file.source.read_bytes(), mtime=0)
        return Reply(200, headers | {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}, body)
    return answer_range(file, request.range, headers | {"Content-Type": "text/plain; charset=utf-8"})


def _make_xet_headers(catalog: Catalog, repo: Repo, commit: Commit, file: StoredFile) -> dict[str, str]:
    """Return the headers of a Xet-backed file (https://huggingface.co/docs/xet/download-protocol)."""
    token = f"/api/models/{repo.model_id}/xet-read-token/{commit.id}"
    rebuild = f"{catalog.cdn}/v1/reconstructions/{file.sha256}"
    links = f'<{token}>; rel="xet-auth", <{rebuild}>; rel="xet-reconstruction-info"'
    return {"X-Xet-Hash": file.sha256, "Link": links}


def answer_cdn(catalog: Catalog, request: Request) -> Reply:
    """Answer a request to the CDN: a signed URL that has not expired gets the bytes."""
    if "authorization" in request.headers:
        return Reply(400, {}, b"<Error><Message>Only one auth mechanism allowed</Message></Error>")
    signature = catalog.make_signature(request.path, request.query)
    if not hmac.compare_digest(signature, request.query.get("Signature", "")):
        return Reply(403, {}, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
    if float(request.query["Expires"]) < time.time():
        return EXPIRED
    file = find_object(catalog, request.path)
    if file is None:
        return Reply(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
    return answer_range(file, request.range, {"ETag": f'"{file.sha256}"', "Content-Type": "application/octet-stream"})


def find_object(catalog: Catalog, path: str) -> StoredFile | None:
    """Find the file of a CDN path."""
    _, _, owner, sha256 = path.split("/") if path.count("/") == 3 else ("",) * 4
    for repo in catalog.repos.values():
        if hashlib.sha1(repo.model_id.encode()).hexdigest() == owner:
            files = (file for commit in repo.commits.values() for file in commit.files.values())
            return next((file for file in files if file.sha256 == sha256), None)
    return None


def find_file_path(request: Request) -> str | None:
    """Return the path in the repository that a request asks for, None where it names no file."""
    if request.origin == "cdn":
        named = re.search(r'filename="(.+)"', request.query.get("response-content-disposition", ""))
        return named[1] if named else None
    _, matched = _match_route(request.path)
    return unquote(matched["file"]) if matched and matched.get("file") else None


def answer_range(file: StoredFile, wanted: str | None, headers: Mapping[str, str]) -> Reply:
    """Answer with a file, or with one range of it. Several ranges give the whole file, as on the Hub."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    common = {**headers, "Accept-Ranges": "bytes"}
    if match is None or match.group(0) == "bytes=-":
        return Reply(200, common, Slice(file.source, 0, file.size))
    first, last = _find_range(match[1], match[2], file.size)
    if first > last:
        return Reply(416, common | {"Content-Range": f"bytes */{file.size}"})
    span = {"Content-Range": f"bytes {first}-{last}/{file.size}"}
    return Reply(206, common | span, Slice(file.source, first, last - first + 1))


def _find_range(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last or size - 1), size - 1)


def _make_info(catalog: Catalog, repo: Repo, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    keys = {path: _make_blob_keys(file) if blobs else {} for path, file in commit.files.items()}
    if not catalog.lists_digests:
        for path in keys:
            keys[path].pop("lfs", None)
    return {
        "_id": hashlib.sha1(repo.model_id.encode()).hexdigest()[:24],
        "id": repo.model_id,
        "modelId": repo.model_id,
        "author": repo.model_id.split("/")[0],
        "sha": commit.id,
        "lastModified": "2025-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "private": False,
        "disabled": False,
        "gated": "manual" if repo.gated else False,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["transformers", "safetensors"],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": path, **known} for path, known in keys.items()],
    }


def _make_blob_keys(file: StoredFile) -> dict[str, Any]:
    known: dict[str, Any] = {"size": file.size, "blobId": file.blob_id}
    pointer = len(lfs_pointer(file.sha256, file.size))
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": pointer}
    return known | ({"lfs": lfs} if file.lfs else {})


def _answer_tree(catalog: Catalog, request: Request, commit: Commit) -> Reply:
    folder = f"{request.file}/" if request.file else ""
    recursive = _read_flag(request.query, "recursive")
    below = [e for e in _list_entries(commit) if e["path"].startswith(folder)]
    if folder and not below:
        return _make_error(404, "EntryNotFound", f"{request.file} does not exist on this revision")
    listed = [e for e in below if recursive or "/" not in e["path"][len(folder) :]]
    size = min(int(request.query.get("limit", catalog.page_size)), catalog.page_size)
    start = int(request.query.get("cursor", 0))
    headers = {}
    if start + size < len(listed):
        query = urlencode({**request.query, "cursor": start + size})
        headers["Link"] = f'<http://{request.headers["host"]}{request.path}?{query}>; rel="next"'
    return _make_json(listed[start : start + size], headers)


def _answer_commits(catalog: Catalog, request: Request, repo: Repo, commit: Commit) -> Reply:
    """Answer with the commits that were pushed up to this one, newest first; authors and dates are made up."""
    pushed = list(repo.commits)
    listed = pushed[pushed.index(commit.id) :: -1]
    size = min(int(request.query.get("limit", catalog.page_size)), catalog.page_size)
    page = int(request.query.get("p", 0))
    headers = {}
    if (page + 1) * size < len(listed):
        query = urlencode({**request.query, "p": page + 1})
        headers["Link"] = f'<http://{request.headers["host"]}{request.path}?{query}>; rel="next"'
    return _make_json([_describe_commit(pushed, one) for one in listed[page * size : (page + 1) * size]], headers)


def _describe_commit(pushed: list[str], commit: str) -> dict[str, Any]:
    number = pushed.index(commit)
    date = f"2025-01-{number % 28 + 1:02d}T00:00:00.000Z"
    return {"id": commit, "title": f"Upload number {number}", "message": "", "date": date, "authors": [{"user": "a"}]}


def _list_entries(commit: Commit) -> Iterator[dict[str, Any]]:
    """Yield the folders and files of a commit as the tree API lists them."""
    folders = {"/".join(path.split("/")[:depth]) for path in commit.files for depth in range(1, path.count("/") + 1)}
    for folder in sorted(folders):
        yield {"type": "directory", "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0, "path": folder}
    for file in commit.files.values():
        pointer = len(lfs_pointer(file.sha256, file.size))
        lfs = {"oid": file.sha256, "size": file.size, "pointerSize": pointer}
        entry = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
        yield entry | ({"lfs": lfs} if file.lfs else {})


def _list_refs(repo: Repo) -> dict[str, Any]:
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in sorted(repo.refs.items())]
    return {"branches": branches, "converts": [], "tags": [], "pullRequests": []}


def _refuse_gated(repo: Repo, token: str | None) -> Reply:
    if token is None:
        rest = "You must have access to it and be authenticated to access it. Please log in."
        return _make_error(401, "GatedRepo", f"Access to model {repo.model_id} is restricted. {rest}")
    rest = f"Visit https://huggingface.co/{repo.model_id} to ask for access."
    return _make_error(403, "GatedRepo", f"Access to model {repo.model_id} is restricted and you are not in the "
                  f"authorized list. {rest}")  # fmt: skip


def _make_error(status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    named = {"X-Error-Code": code} if code else {}
    return _make_json({"error": message}, {**(headers or {}), **named, "X-Error-Message": message}, status)


def _make_json(value: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply:
    body = json.dumps(value).encode()
    return Reply(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def _read_flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")
