"""The revisions of a model on the Hub: its commits, newest first, page by page.

`/api/models/{id}/commits/{revision}`, with the next page in the header `Link`:
https://huggingface.co/docs/hub/api, huggingface_hub's `HfApi.list_repo_commits`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from ci.errors import InfrastructureError
from ci.hub.connection import MAX_REDIRECTS, REDIRECTS, make_redirect_error
from ci.hub.listing import read_bounded
from ci.hub.repository import is_commit
from ci.hub.responses import OddAnswerError, RefusedError, check_encoding

if TYPE_CHECKING:
    from ci.hub.connection import HubConnection

MAX_TITLE = 100


@dataclass(frozen=True)
class HubCommit:
    """A commit of a model's repository; `date` is the day, ISO 8601."""

    id: str
    title: str = ""
    date: str = ""


def request_commits(
    connection: HubConnection, model_id: str, revision: str, page: str | None = None
) -> tuple[tuple[HubCommit, ...], str | None]:
    """Request a page of a revision's commits, newest first, and the next page's address.

    `page` is that of an earlier call, None for the first one. Raises TransientError where another try may help,
    RequestError when the model or the revision does not exist.
    """
    url = page or f"{connection.endpoint}/api/models/{quote(model_id)}/commits/{quote(revision, safe='')}"
    for _ in range(MAX_REDIRECTS):
        with connection.open(url, {}) as response:
            if response.status_code in REDIRECTS:
                url = connection.resolve_redirect(url, response)
                continue
            connection.raise_for_status(response, model_id, revision)
            check_encoding(response)
            if response.status_code != 200:
                raise OddAnswerError(f"HTTP {response.status_code} instead of the list of commits")
            following = _find_next(connection, url, response)
            return _parse_commits(read_bounded(connection, response, url), url), following
    raise make_redirect_error()


def _find_next(connection: HubConnection, url: str, response: Any) -> str | None:
    target: str | None = response.links.get("next", {}).get("url")
    if not target:
        return None
    following: str = urljoin(url, target)
    if not connection.is_hub_url(following):
        raise OddAnswerError("the next page of the commits is not on the Hub; check HF_ENDPOINT")
    return following


def _parse_commits(body: bytes, url: str) -> tuple[HubCommit, ...]:
    """Parse a page. What is malformed may be a captive portal's page, which passes."""
    try:
        listed = json.loads(body)
        commits = tuple(_parse_commit(entry) for entry in listed)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RefusedError(InfrastructureError(f"{url}: not a list of commits; is HF_ENDPOINT a Hub?")) from None
    return commits


def _parse_commit(entry: Any) -> HubCommit:
    if not is_commit(entry["id"]):
        raise ValueError
    title = " ".join(str(entry.get("title") or "").split())
    printable = "".join(char for char in title if char.isprintable())
    return HubCommit(entry["id"], printable[:MAX_TITLE], str(entry.get("date") or "")[:10])
