"""What a response means: broken for now, refused for good, or exactly the bytes that were asked for. No I/O here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ci.errors import GatedError, HubTestsError, InfrastructureError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.hub.listing import RemoteFile, Repository

MAX_WAIT = 600.0
RATE_LIMIT = re.compile(r'"\w+"\s*;\s*r\s*=\s*(?P<remaining>\d{1,9})\s*;\s*t\s*=\s*(?P<seconds>\d{1,9})')
READ = 1024**2
DIRECT_FROM = 1024**2
"""Bytes of a body from which reading past the HTTP library is worth a connection that cannot be used again."""


class Transient(Exception):  # noqa: N818 - answered with another try, never seen outside
    """Worth another try, after `wait` seconds if the server said so."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def _broken() -> Iterator[type[Exception]]:
    yield Transient
    for library, names in (
        ("httpx", ("TransportError",)),
        ("httpcore", ("NetworkError", "TimeoutException", "ProtocolError")),
    ):
        for module in (library, f"{library}2"):  # huggingface_hub moved from httpx to httpx2 with its version 2
            if importlib.util.find_spec(module):
                yield from (getattr(importlib.import_module(module), name) for name in names)


BROKEN: tuple[type[Exception], ...] = tuple(_broken())
"""What a broken connection raises."""


def body(response: Any, size: int, timeout: float, *, direct: bool) -> Iterator[bytes]:
    """The body's chunks, `size` bytes if the server keeps its word.

    httpx and h11 copy each 64 KiB through six layers of Python, which costs 2 s of CPU a gigabyte under the
    interpreter's lock. Once they have parsed the headers and handed out what they had buffered, a plain body is read
    from the connection itself (the documented extension `network_stream`, so proxies and TLS stay as configured).
    """
    chunks = response.iter_raw()
    first = next(chunks, b"")
    yield first
    left = size - len(first)
    stream = response.extensions.get("network_stream")
    if not direct or stream is None or left < DIRECT_FROM or not _is_plain(response, size):
        yield from chunks
        return
    while left:
        chunk = stream.read(min(left, READ), timeout=timeout)
        if not chunk:
            raise Transient(f"connection ended {left} bytes early")
        left -= len(chunk)
        yield chunk


def _is_plain(response: Any, size: int) -> bool:
    headers = response.headers
    return (
        response.http_version == "HTTP/1.1"
        and "Transfer-Encoding" not in headers
        and headers.get("Content-Length") == str(size)
    )


def raise_transient(response: Any) -> None:
    """Transient for what the server, or a limit of its, may answer otherwise in a while."""
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise Transient(f"HTTP {status} from {urlsplit(str(response.url)).netloc}", wait=_told_to_wait(response))


def _told_to_wait(response: Any) -> float | None:
    """Seconds that a rate limit asks for (https://huggingface.co/docs/hub/rate-limits, RFC 9110 Retry-After)."""
    limit = RATE_LIMIT.search(response.headers.get("RateLimit", ""))
    if limit and int(limit["remaining"]) == 0:
        return min(int(limit["seconds"]) + 1.0, MAX_WAIT)
    after = response.headers.get("Retry-After", "").strip()
    return min(float(after[:9]), MAX_WAIT) if after.isdecimal() else None


def refusal(response: Any, endpoint: str, model_id: str, revision: str | None, *, has_token: bool) -> HubTestsError:
    """The Hub's refusal as one line that says what to do (codes: `hf_raise_for_status` of huggingface_hub)."""
    code, status = response.headers.get("X-Error-Code"), response.status_code
    page = f"{endpoint}/{model_id}"
    if code == "GatedRepo" and not has_token:
        return GatedError(f"{model_id} is gated: accept its terms at {page}, then set HF_TOKEN to a token of that user")
    if code == "GatedRepo":
        return GatedError(f"{model_id} is gated and the user of HF_TOKEN has no access: ask for it at {page}")
    if code == "RevisionNotFound":
        return RequestError(f"{model_id} has no revision {revision!r}: see {page}/commits")
    if response.headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
        return RequestError(f"{endpoint} does not know the token in HF_TOKEN: renew it, or unset it for public models")
    if code == "RepoNotFound" or status in (401, 404):
        hint = "the user of HF_TOKEN has no access" if has_token else "private: set HF_TOKEN"
        return RequestError(f"no model {model_id!r} at {endpoint} (or it is {hint}); names are 'owner/name'")
    return InfrastructureError(f"{model_id}: {endpoint} answered HTTP {status} {code or ''}".rstrip())


def check_linked(response: Any, repository: Repository, file: RemoteFile) -> None:
    """The file behind the redirect must be the one that the listing named."""
    headers, where = response.headers, repository.label(file.path)
    if headers.get("X-Repo-Commit", repository.commit) != repository.commit:
        raise InfrastructureError(f"{where}: the Hub answered for commit {headers['X-Repo-Commit'][:60]!r}")
    if headers.get("X-Linked-Size", str(file.size)) != str(file.size):
        raise InfrastructureError(f"{where}: {headers['X-Linked-Size'][:30]} bytes, the listing said {file.size}")


def check_range(response: Any, span: tuple[int, int], size: int, where: str) -> None:
    """Refuse, before its body is read, a response that does not carry exactly [begin, end) of `size` bytes."""
    begin, end = span
    status, headers = response.status_code, response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise InfrastructureError(f"{where}: the server compressed what was asked for as it is")
    if status == 200 and span != (0, size):
        raise InfrastructureError(f"{where}: the server ignored the Range header (HTTP 200): a proxy without ranges?")
    if status not in (200, 206):
        raise InfrastructureError(f"{where}: HTTP {status} instead of the file's bytes")
    told = headers.get("Content-Range", "")
    if status == 206 and told.replace(" ", "") != f"bytes{begin}-{end - 1}/{size}":
        raise InfrastructureError(f"{where}: asked for bytes {begin}-{end - 1}/{size}, answered {told[:80]!r}")
