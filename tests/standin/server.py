"""The stand-in's two origins on loopback: sockets, threads, the log of what was asked, and the faults of transport."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

from tests.standin.answers import Catalog, answer_cdn, answer_hub, find_file_path
from tests.standin.repos import Repo, make_commit
from tests.standin.wire import Fault, Faults, Link, Origin, Reply, Request, Slice, apply_fault, read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

PACED_CHUNK = 32 * 1024
"""Bytes between two pauses on a line with a limited rate."""


class HubServer:
    """A Hub with `endpoint` and its CDN on another origin, serving directories. A context manager.

    `log` holds every request in order of arrival; `faults.inject(Fault(…))` makes things go wrong. `link` slows every
    connection down. `connections` counts those that were opened.
    """

    def __init__(self, port: int = 0) -> None:
        self.log: list[Request] = []
        self.faults = Faults()
        self.link = Link()
        self.connections = 0
        self.closing = threading.Event()
        self._origins = [_OriginServer(self, "hub", port), _OriginServer(self, "cdn", 0)]
        self.endpoint, cdn = (origin.url for origin in self._origins)
        self.catalog = Catalog(cdn)
        self.expire_urls()

    def add(
        self,
        model_id: str,
        directory: Path,
        *,
        revision: str = "main",
        gated: bool = False,
        digests: Mapping[str, str] | None = None,
    ) -> str:
        """Push a directory as a commit to the branch `revision`, and return the full commit id.

        The files are served from where they are and must stay; earlier commits stay reachable by their ids.
        `digests` names the sha256 of files that are not to be read for it (huge ones made for measuring).
        """
        commit = make_commit(directory, digests or {})
        repo = self.catalog.repos.setdefault(model_id, Repo(model_id))
        repo.gated = gated
        repo.push(commit, revision)
        return commit.id

    def grant(self, token: str, *model_ids: str) -> None:
        """Make `token` valid, with access to these gated repositories."""
        self.catalog.tokens.setdefault(token, set()).update(model_ids)

    def expire_urls(self) -> None:
        """End the life of every signed URL that was given out so far."""
        self.catalog.key = secrets.token_bytes(16)

    def requests(self, origin: Origin | None = None, method: str | None = None) -> list[Request]:
        """Return the logged requests, of one origin or method if given."""
        return [r for r in self.log if origin in (None, r.origin) and method in (None, r.method)]

    def leaks(self) -> list[Request]:
        """Return the requests that sent a token to the CDN; any is a bug of the client."""
        return [r for r in self.requests("cdn") if "authorization" in r.headers]

    def answer(self, request: Request) -> Reply:
        """Answer a request as its origin does."""
        return (answer_hub if request.origin == "hub" else answer_cdn)(self.catalog, request)

    def __enter__(self) -> Self:
        for origin in self._origins:
            threading.Thread(target=origin.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.closing.set()
        for origin in self._origins:
            origin.shutdown()
            origin.hang_up()
            origin.server_close()


class _OriginServer(ThreadingHTTPServer):
    """One origin. Threads are joined at the end: nothing outlives the server."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, hub: HubServer, name: Origin, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub, self.name = hub, name
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
            self.hub.connections += 1
        return connection, address

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().close_request(request)

    def hang_up(self) -> None:
        """Wake the threads that wait on idle connections."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error, unless the client closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _without_range(request: Request) -> Request:
    return replace(request, headers={name: value for name, value in request.headers.items() if name != "range"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _OriginServer

    def setup(self) -> None:
        """Set the connection up, which costs a round trip."""
        super().setup()
        self.server.hub.closing.wait(self.server.hub.link.latency)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Print nothing: requests are in the hub's log."""

    def do_GET(self) -> None:
        hub = self.server.hub
        request = self._read_request()
        hub.log.append(request)
        if hub.link.latency:
            hub.closing.wait(hub.link.latency)
        fault = hub.faults.take_fault(request)
        if fault and fault.kind in ("drop", "hang"):
            hub.closing.wait(fault.amount if fault.kind == "hang" else 0)
            return self._reset()
        reply = hub.answer(_without_range(request) if fault and fault.kind == "ignore_range" else request)
        return self._send(request, apply_fault(reply, fault, request) if fault else reply, fault)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the base class's names

    def _read_request(self) -> Request:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        query = dict(parse_qsl(parts.query))
        request = Request(self.server.name, self.command, parts.path, query, headers, body)
        request.file = find_file_path(request)
        return request

    def _send(self, request: Request, reply: Reply, fault: Fault | None) -> None:
        request.status = reply.status
        request.sent = 0 if request.method == "HEAD" else reply.length
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        chunked = "Transfer-Encoding" in reply.headers
        if not chunked:
            self.send_header("Content-Length", str(reply.length))
        if fault and fault.kind == "drip_headers":
            self._drip_headers(fault.amount)
        self.end_headers()
        if request.method == "HEAD":
            return
        if chunked:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (reply.length, read(reply.body)))
        else:
            self._send_body(request, reply.body, fault)

    def _send_body(self, request: Request, body: bytes | Slice, fault: Fault | None) -> None:
        if fault and fault.kind == "slow":
            return self._trickle(body, fault.amount)
        if fault and fault.kind in ("reset", "cut"):
            request.sent = min(fault.amount, request.sent)
            self._write(body, request.sent)
            self.close_connection = True
            return self._reset() if fault.kind == "reset" else None
        if self.server.hub.link.rate:
            return self._pace(body, self.server.hub.link.rate)
        return self._write(body, request.sent)

    def _pace(self, body: bytes | Slice, rate: float) -> None:
        """Send a body at `rate` bytes a second, in the long run."""
        content, started = memoryview(read(body)), time.monotonic()
        for start in range(0, len(content), PACED_CHUNK):
            chunk = content[start : start + PACED_CHUNK]
            late = started + (start + len(chunk)) / rate - time.monotonic()
            if late > 0 and self.server.hub.closing.wait(late):
                return
            self.wfile.write(chunk)

    def _drip_headers(self, rate: int) -> None:
        """Send the buffered headers at `rate` bytes a second."""
        headers: list[bytes] = vars(self).pop("_headers_buffer")  # end_headers then sends the blank line alone
        for byte in b"".join(headers):
            self.wfile.write(bytes([byte]))
            if self.server.hub.closing.wait(1 / rate):
                break

    def _write(self, body: bytes | Slice, length: int) -> None:
        if isinstance(body, bytes):
            self.wfile.write(body[:length])
        elif length:
            with body.source.open("rb") as file:
                self.connection.sendfile(file, body.offset, length)

    def _trickle(self, body: bytes | Slice, rate: int) -> None:
        content = read(body)
        step = max(rate // 20, 1)
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if self.server.hub.closing.wait(step / rate):
                return

    def _reset(self) -> None:
        """Close with RST instead of FIN, as a broken network does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()
