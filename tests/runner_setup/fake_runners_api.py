"""A small, stateful GitHub for the runner endpoints, on loopback: the App's token, JIT runners, issues, releases."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

APP_ID, INSTALLATION, REPOSITORY = "123456", 77, "org/repo"
INSTALLATION_TOKEN = "ghs_installation"
USER: dict[str, Any] = {
    "login": "hub-runner[bot]", "id": 9, "node_id": "U", "avatar_url": "https://x.invalid/a", "gravatar_id": "",
    **{f"{name}_url": f"https://x.invalid/{name}" for name in (
        "html", "followers", "following", "gists", "starred", "subscriptions", "organizations", "repos", "events",
        "received_events",
    )},
    "url": "https://x.invalid/u", "type": "Bot", "site_admin": False,
}  # fmt: skip


class FakeGitHub:
    """State, and how it misbehaves: `down` answers nothing, `lost` acts and then says nothing, `refuse` is a status.

    `busy`: every runner has a job.
    """

    def __init__(self, key: Path) -> None:
        self.key = key
        self.runners: dict[int, dict[str, Any]] = {}
        self.issues: dict[int, dict[str, Any]] = {}
        self.releases: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.scopes: list[dict[str, Any]] = []
        self.down = False
        self.lost = False
        self.busy = False
        self.refuse: dict[str, int] = {}
        self.ids = itertools.count(1)
        self.url = ""

    # The routes ----------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, token: str, body: Any) -> tuple[int, Any]:
        self.calls.append(f"{method} {target}")
        path = urlsplit(target).path
        for pattern, status in self.refuse.items():
            if re.search(pattern, f"{method} {target}"):
                return status, {"message": "refused by the test", "documentation_url": "https://docs.github.com"}
        for wanted, pattern, route in self.routes():
            if method == wanted and (match := re.fullmatch(pattern, path)):
                public = route == self.release
                if not public and not self.knows(path, token):
                    return 401, {"message": "Bad credentials", "documentation_url": "https://docs.github.com"}
                return route(body, parse_qs(urlsplit(target).query), *match.groups())
        return 404, {"message": "Not Found", "documentation_url": "https://docs.github.com"}

    def routes(self) -> tuple[tuple[str, str, Callable[..., tuple[int, Any]]], ...]:
        base = f"/(?:repos/{REPOSITORY}|orgs/org)"
        return (
            ("POST", rf"/app/installations/{INSTALLATION}/access_tokens", self.token),
            ("POST", rf"{base}/actions/runners/generate-jitconfig", self.jit),
            ("GET", rf"{base}/actions/runners", self.runner_list),
            ("GET", rf"{base}/actions/runners/(\d+)", self.runner),
            ("DELETE", rf"{base}/actions/runners/(\d+)", self.remove),
            ("GET", rf"/repos/{REPOSITORY}/issues", self.issue_list),
            ("POST", rf"/repos/{REPOSITORY}/issues", self.open_issue),
            ("PATCH", rf"/repos/{REPOSITORY}/issues/(\d+)", self.edit_issue),
            ("GET", r"/repos/actions/runner/releases/latest", self.release),
        )

    def knows(self, path: str, token: str) -> bool:
        return self.signed(token) if path.startswith("/app/") else token == INSTALLATION_TOKEN

    def signed(self, token: str) -> bool:
        """Verify the App's RS256 signature for real, against the key's public half."""
        signed, _, signature = token.rpartition(".")
        public = subprocess.run(["openssl", "rsa", "-in", self.key, "-pubout"], capture_output=True, check=True).stdout
        raw = base64.urlsafe_b64decode(signature + "==")
        public_file, signature_file = self.key.with_suffix(".pub"), self.key.with_suffix(".sig")
        public_file.write_bytes(public)
        signature_file.write_bytes(raw)
        verify = ["openssl", "dgst", "-sha256", "-verify", str(public_file), "-signature", str(signature_file)]
        if subprocess.run(verify, input=signed.encode(), capture_output=True, check=False).returncode:
            return False
        claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
        timely = claims["iat"] <= time.time() < claims["exp"] and claims["exp"] - claims["iat"] <= 600
        return bool(claims["iss"] == APP_ID and timely)

    def token(self, body: Any, _: Any) -> tuple[int, Any]:
        self.scopes.append(body)
        return 201, {
            "token": INSTALLATION_TOKEN,
            "expires_at": "2099-01-01T00:00:00Z",
            "permissions": body["permissions"],
        }

    def jit(self, body: Any, _: Any) -> tuple[int, Any]:
        if any(each["name"] == body["name"] for each in self.runners.values()):
            return 409, {"message": "Already exists", "documentation_url": "https://docs.github.com"}
        if not body.get("labels"):
            return 422, {"message": "Invalid labels", "documentation_url": "https://docs.github.com"}
        runner_id = next(self.ids)
        self.runners[runner_id] = {
            "id": runner_id,
            "runner_group_id": body["runner_group_id"],
            "name": body["name"],
            "os": "linux",
            "status": "offline",
            "busy": False,
            "labels": [{"name": label, "type": "custom"} for label in body["labels"]],
        }
        config = base64.b64encode(json.dumps({"runner": runner_id, "name": body["name"]}).encode()).decode()
        return 201, {"runner": self.runners[runner_id], "encoded_jit_config": config}

    def runner_list(self, _: Any, query: dict[str, list[str]]) -> tuple[int, Any]:
        name = query.get("name", [None])[0]
        runners = [each for each in self.runners.values() if name in (None, each["name"])]
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        return 200, {"total_count": len(runners), "runners": runners[size * (page - 1) : size * page]}

    def runner(self, _: Any, __: Any, runner_id: str) -> tuple[int, Any]:
        known = self.runners.get(int(runner_id))
        return (
            (200, known) if known else (404, {"message": "Not Found", "documentation_url": "https://docs.github.com"})
        )

    def remove(self, _: Any, __: Any, runner_id: str) -> tuple[int, Any]:
        known = self.runners.get(int(runner_id))
        if known is None:
            return 404, {"message": "Not Found", "documentation_url": "https://docs.github.com"}
        if known["busy"] or self.busy:
            message = f"Bad request - Runner {known['name']!r} is currently running a job and cannot be deleted."
            return 422, {"message": message, "documentation_url": "https://docs.github.com"}
        del self.runners[int(runner_id)]
        return 204, None

    def issue_list(self, _: Any, query: dict[str, list[str]]) -> tuple[int, Any]:
        wanted = query["labels"][0]
        return 200, [
            each for each in self.issues.values() if each["state"] == "open" and wanted == each["labels"][0]["name"]
        ]

    def open_issue(self, body: Any, _: Any) -> tuple[int, Any]:
        number = next(self.ids)
        self.issues[number] = issue(number, body["title"], body["body"], body["labels"])
        return 201, self.issues[number]

    def edit_issue(self, body: Any, _: Any, number: str) -> tuple[int, Any]:
        self.issues[int(number)].update(body)
        return 200, self.issues[int(number)]

    def release(self, _: Any, __: Any) -> tuple[int, Any]:
        return (200, self.releases) if self.releases else (404, {"message": "Not Found"})

    # Serving -------------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        server = ThreadingHTTPServer((host, port), self.handler())
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self.url
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                if self.path == "/__fake__":
                    vars(fake).update(body or {})
                    state = {"runners": fake.runners, "calls": fake.calls, "issues": fake.issues}
                    self.reply(200, json.dumps(state).encode(), "application/json")
                    return
                if fake.down:
                    return
                if self.path in fake.files:
                    self.reply(200, fake.files[self.path], "application/octet-stream")
                    return
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, answer = fake.answer(self.command, self.path, token, body)
                if not (fake.lost and self.command != "GET" and "access_tokens" not in self.path):
                    self.reply(status, b"" if answer is None else json.dumps(answer).encode(), "application/json")

            do_GET = do_POST = do_PATCH = do_DELETE = do  # noqa: N815

            def reply(self, status: int, data: bytes, kind: str) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def issue(number: int, title: str, body: str, labels: list[str]) -> dict[str, Any]:
    url = f"https://api.github.com/repos/{REPOSITORY}/issues/{number}"
    return {
        "id": number, "node_id": "I", "number": number, "title": title, "body": body, "state": "open", "url": url,
        "repository_url": f"https://api.github.com/repos/{REPOSITORY}", "labels_url": url, "comments_url": url,
        "events_url": url, "html_url": url, "user": USER, "locked": False, "assignee": None, "milestone": None,
        "labels": [{"name": label, "color": "ededed"} for label in labels], "comments": 0, "closed_at": None,
        "created_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z", "author_association": "NONE",
        "performed_via_github_app": {"id": int(APP_ID), "node_id": "A", "owner": USER, "name": "hub-runner",
            "description": None, "external_url": url, "html_url": url, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "permissions": {}, "events": []},
    }  # fmt: skip


if __name__ == "__main__":
    import sys
    from pathlib import Path as RealPath

    with FakeGitHub(RealPath(sys.argv[1])).serving("0.0.0.0", int(sys.argv[2])):
        threading.Event().wait(600)
