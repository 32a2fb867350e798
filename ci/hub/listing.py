"""Ask the Hub for a model's commit and files, and follow the redirect of a renamed model.

A renamed model answers 307 to its new name, on `/api/models` and on `/resolve` (huggingface_hub follows the same
relative redirects: `_httpx_follow_relative_redirects_with_backoff`). Later URLs use the new name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from ci.errors import InfrastructureError, RequestError
from ci.hub.connection import MAX_REDIRECTS, REDIRECTS, make_redirect_error
from ci.hub.repository import check_model_id, is_commit, parse_repository
from ci.hub.responses import OddAnswerError, RefusedError, check_encoding

if TYPE_CHECKING:
    from ci.hub.connection import HubConnection
    from ci.hub.repository import Repository

MAX_LISTING = 64 * 1024**2
QUERY = "?blobs=true"
API_PATH = re.compile(r"/api/models/(?P<model>[^/]+(?:/[^/]+)?)(?:/revision/.+)?")


def request_repository(connection: HubConnection, model_id: str, revision: str | None) -> Repository:
    """Return the commit and files of `model_id`, with one request; one more for each redirect.

    Raises TransientError where another try may help, RequestError when the model or the revision does not exist.
    """
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    first = url = f"{connection.endpoint}/api/models/{quote(model_id)}{at}{QUERY}"
    for _ in range(MAX_REDIRECTS):
        with connection.open(url, {}) as response:
            if response.status_code in REDIRECTS:
                target = connection.resolve_redirect(url, response)
                url = target if urlsplit(target).query else target + QUERY
                continue
            connection.raise_for_status(response, model_id, revision)
            check_encoding(response)
            if response.status_code != 200:
                raise OddAnswerError(f"HTTP {response.status_code} instead of the list of files")
            repository = _parse_listing(read_bounded(connection, response, url), model_id, revision, url)
        return repository if url == first else _rename(connection, repository, url)
    raise make_redirect_error()


def _parse_listing(body: bytes, model_id: str, revision: str | None, url: str) -> Repository:
    """Parse a listing. What is malformed may be a captive portal's page, which passes."""
    try:
        repository = parse_repository(body, model_id, what=url)
    except InfrastructureError as problem:
        raise RefusedError(problem) from None
    if is_commit(revision) and repository.commit != revision:
        raise OddAnswerError(
            f"asked for commit {revision}, the Hub answered with {repository.commit}; check HF_ENDPOINT"
        )
    return repository


def _rename(connection: HubConnection, repository: Repository, url: str) -> Repository:
    """Return the repository with the name in the URL that answered, if that is the Hub's."""
    path = unquote(urlsplit(url).path).removeprefix(urlsplit(connection.endpoint).path)
    matched = API_PATH.fullmatch(path)
    if matched is None or not connection.is_hub_url(url):
        return repository
    try:
        return replace(repository, renamed_to=check_model_id(matched["model"]))
    except RequestError as problem:
        raise OddAnswerError(f"redirected to a model without a valid name: {problem}") from None


def read_bounded(connection: HubConnection, response: Any, url: str) -> bytes:
    """Read a whole body of unknown length, up to MAX_LISTING bytes."""
    content = bytearray()
    for chunk in connection.iter_chunks(response, 0):
        content += chunk
        if len(content) > MAX_LISTING:
            raise OddAnswerError(
                f"{url}: the answer is larger than the limit of {MAX_LISTING} bytes; is HF_ENDPOINT a Hub?"
            )
    return bytes(content)
