"""A GitHub of our own on loopback, with state: what is written can be read back, and a faster writer wins.

It knows what the service calls and nothing else; an unknown path is 404. `log` holds every request in order.
`answers` completes what it says into whole answers; without it (no npm here) it says only the facts.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.e2e.github_routes import ROUTES, Redirect
from tests.e2e.github_state import BOT, LATE, NOW, REPORTED, TOKEN, Fault, RefusedError, Request, State

if TYPE_CHECKING:
    from tests.e2e.openapi import Answers

BLOBS = "/blobs/"

__all__ = ["BOT", "LATE", "NOW", "REPORTED", "TOKEN", "FakeGitHub", "Fault", "Request", "State"]


class FakeGitHub:
    """The server; a context manager. `url` is what GITHUB_API_URL would be."""

    def __init__(self, state: State | None = None, answers: Answers | None = None) -> None:
        self.state = state or State()
        self.answers = answers
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.blobs: list[bytes] = []
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """As new: no state, no log, no faults."""
        with self.lock:
            self.state, self.log, self.faults = State(), [], []

    def writes(self) -> list[str]:
        """Method and path of everything written, in order, without the repository."""
        return [f"{r.method} {r.path.removeprefix(f'/repos/{self.state.repository}')}" for r in self.log if r.is_write]

    def answer(self, request: Request) -> tuple[int, Any, dict[str, str]]:
        with self.lock:
            self.log.append(request)
            if self.state.before:
                self.state.before(request)
            if fault := self._fault(request):
                return fault.status, {"message": fault.message, "documentation_url": ""}, fault.headers
            if TOKEN not in request.authorization:
                return 401, {"message": "Bad credentials"}, {}
            try:
                return self._routed(request)
            except RefusedError as refused:
                return refused.status, {"message": str(refused), "documentation_url": "", "status": ""}, {}

    def _fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == request.method and re.fullmatch(fault.path, request.path):
                fault.times -= 1
                return fault
        return None

    def _routed(self, request: Request) -> tuple[int, Any, dict[str, str]]:
        for method, path, pattern, handler in ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                named = {key: unquote(value) for key, value in match.groupdict().items()}
                status, facts = handler(self.state, request, **named)
                if isinstance(facts, Redirect):
                    self.blobs.append(facts.content)
                    return status, None, {"Location": f"{self.url}{BLOBS}{len(self.blobs) - 1}"}
                return status, self.answers.whole(path, method.lower(), status, facts) if self.answers else facts, {}
        raise RefusedError(404)


def _handler(fake: FakeGitHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.startswith(BLOBS):
                self.send_blob(fake.blobs[int(parts.path.removeprefix(BLOBS))])
                return
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query)),
                json.loads(content) if content else None,
                self.headers.get("Authorization", ""),
            )
            status, answer, headers = fake.answer(request)
            kind = "application/json" if answer is not None else "text/plain"
            body = json.dumps(answer).encode() if answer is not None else b""
            self.send(status, body, {"Content-Type": kind, **headers})

        def send_blob(self, content: bytes) -> None:
            """Answer as the storage, which is not GitHub's API and must not see the token."""
            allowed = "Authorization" not in self.headers
            self.send(200 if allowed else 400, content if allowed else b"", {})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
