"""What crosses the wire: a request as it was seen, a reply as it is meant, and the faults that come between them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

Origin = Literal["hub", "cdn"]
FaultKind = Literal[
    "status",  # answer `status` with `headers` instead
    "drop",  # reset the connection before any answer
    "reset",  # reset the connection after `amount` bytes of the body
    "cut",  # promise the whole body, close in good order after `amount` bytes of it
    "short",  # a consistent Content-Length, but `amount` bytes fewer than the range asked for
    "slow",  # send the body at `amount` bytes a second
    "ignore_range",  # 200 with the whole body where a range was asked for
    "wrong_range",  # a Content-Range shifted by `amount` bytes
    "resize",  # a total size that is off by `amount` bytes (X-Linked-Size, Content-Range)
    "corrupt",  # flip one bit of byte `amount` of the body
    "expired",  # the CDN's answer to a signed URL past its life
    "hang",  # accept the request and answer nothing for `amount` seconds
    "extra",  # `amount` bytes more than the range asked for, with a Content-Length that says so
    "chunked",  # no Content-Length, and `amount` bytes more (or, below 0, fewer) than asked for
    "gzip",  # the body compressed, though nobody asked for it
    "empty",  # 204 without a body
    "portal",  # 200 with a captive portal's page
    "loop",  # a redirect to the same URL
    "drip_headers",  # send status and headers at `amount` bytes a second
]

PORTAL_PAGE = b"<!DOCTYPE html><html><head><title>Sign in to the network</title></head><body>Sign in</body></html>"


@dataclass
class Request:
    """One request as it arrived. Header names are lower-case; `status` and `sent` (body bytes) are what was answered.

    `file` is the path inside the repository where the request names one, on either origin.
    """

    origin: Origin
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    file: str | None = None
    status: int = 0
    sent: int = 0

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("range")


@dataclass(frozen=True)
class Slice:
    """`length` bytes of the file at `source` from `offset`."""

    source: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Reply:
    """An answer before it is sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Slice = b""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.body.length if isinstance(self.body, Slice) else len(self.body)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with requests that match: `times` of them (None: all), the first `skip` spared.

    `file` is a pattern for the path inside the repository, `path` one for the URL's path.
    """

    kind: FaultKind
    amount: int = 0
    origin: Origin | None = None
    method: str | None = None
    file: str | None = None
    path: str = "*"
    times: int | None = 1
    skip: int = 0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)

    def matches(self, request: Request) -> bool:
        """Return whether this fault applies to a request."""
        return (
            self.origin in (None, request.origin)
            and self.method in (None, request.method)
            and (self.file is None or (request.file is not None and fnmatchcase(request.file, self.file)))
            and fnmatchcase(request.path, self.path)
        )


class Faults:
    """The faults still to come, in the order in which they were injected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._faults)

    def inject(self, *faults: Fault) -> None:
        """Add faults for later requests."""
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, request: Request) -> Fault | None:
        """Return the fault for a request, and count it down."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if not fault.matches(request):
                    continue
                if fault.skip:
                    self._faults[index] = replace(fault, skip=fault.skip - 1)
                    continue
                self._count_down(index, fault)
                return fault
        return None

    def _count_down(self, index: int, fault: Fault) -> None:
        if fault.times is None:
            return
        if fault.times <= 1:
            del self._faults[index]
        else:
            self._faults[index] = replace(fault, times=fault.times - 1)


def apply_fault(reply: Reply, fault: Fault, request: Request) -> Reply:
    """Change a reply as a fault says. The server applies faults of timing and transport itself."""
    if fault.kind == "status":
        return Reply(fault.status, fault.headers, b"injected\n")
    if fault.kind == "expired":
        return EXPIRED
    if fault.kind == "short" and isinstance(reply.body, Slice):
        return replace(reply, body=replace(reply.body, length=max(reply.length - fault.amount, 0)))
    if fault.kind == "corrupt":
        return replace(reply, body=_flip_bit(reply.body, fault.amount))
    if fault.kind in ("extra", "chunked"):
        return _change_length(reply, fault.amount, chunked=fault.kind == "chunked")
    if fault.kind in ("gzip", "empty", "portal", "loop"):
        return _answer_instead(reply, fault.kind, request)
    if fault.kind == "wrong_range":
        return _change_content_range(reply, shift=fault.amount)
    if fault.kind == "resize":
        return _change_content_range(reply, grow=fault.amount)
    return reply


EXPIRED = Reply(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code><Message>Request has "
                b"expired</Message></Error>")  # fmt: skip


def _answer_instead(reply: Reply, kind: str, request: Request) -> Reply:
    if kind == "gzip":
        body = gzip.compress(read(reply.body), mtime=0)
        return Reply(reply.status, {**reply.headers, "Content-Encoding": "gzip"}, body)
    if kind == "empty":
        return Reply(204)
    if kind == "portal":
        return Reply(200, {"Content-Type": "text/html"}, PORTAL_PAGE)
    query = f"?{urlencode(request.query)}" if request.query else ""
    return Reply(302, {"Location": f"{request.path}{query}"})


def _change_length(reply: Reply, change: int, *, chunked: bool) -> Reply:
    content = read(reply.body)
    content = content + b"\0" * change if change >= 0 else content[:change]
    headers = {**reply.headers, "Transfer-Encoding": "chunked"} if chunked else reply.headers
    return replace(reply, headers=headers, body=content)


def _flip_bit(body: bytes | Slice, position: int) -> bytes:
    content = bytearray(read(body))
    content[position % len(content)] ^= 1
    return bytes(content)


@dataclass
class Link:
    """How slow the line is: seconds of a round trip, and bytes a second of one connection (0: no limit)."""

    latency: float = 0.0
    rate: float = 0.0


def read(body: bytes | Slice) -> bytes:
    """Return the body's bytes."""
    if isinstance(body, bytes):
        return body
    with body.source.open("rb") as file:
        file.seek(body.offset)
        return file.read(body.length)


def _change_content_range(reply: Reply, shift: int = 0, grow: int = 0) -> Reply:
    headers = dict(reply.headers)
    if linked := headers.get("X-Linked-Size"):
        headers["X-Linked-Size"] = str(int(linked) + grow)
    if stated := headers.get("Content-Range"):
        span, total = stated.removeprefix("bytes ").split("/")
        first, last = (int(end) + shift for end in span.split("-"))
        headers["Content-Range"] = f"bytes {first}-{last}/{int(total) + grow}"
    return replace(reply, headers=headers)
