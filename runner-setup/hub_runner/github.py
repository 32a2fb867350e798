"""GitHub's runner endpoints, as an App: the only HTTP to GitHub on a host, in the only process that sees the key.

The key is never read into this process: openssl signs with it.
https://docs.github.com/en/rest/actions/self-hosted-runners
https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from hub_runner.outside import MintRefusedError, MintUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import GitHub

TIMEOUT = 20.0
MOST_BYTES = 8 << 20
API_VERSION = "2022-11-28"
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Reply:
    """An answer that was understood: its status and its JSON."""

    status: int
    body: Any


def app_token(app_id: str, key: Path, now: float) -> str:
    """A JSON Web Token of the App, RS256, valid for nine minutes from a minute ago: GitHub allows ten."""
    claims = {"iat": int(now) - 60, "exp": int(now) + 480, "iss": app_id}
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    sign = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    try:
        answer = subprocess.run(sign, input=signed.encode(), capture_output=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as failure:
        raise MintRefusedError(f"openssl could not sign with {key}: is it the App's private key? ({failure})") from None
    return f"{signed}.{_base64url(answer.stdout)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class GitHubApp:
    """One installation of the App, with a token that may do no more than `permissions` in the one repository."""

    def __init__(self, github: GitHub, key: Path) -> None:
        self.github, self.key = github, key
        self.base = f"/repos/{github.repository}" if github.repository else f"/orgs/{github.organization}"

    def token(self, **permissions: str) -> str:
        """An installation token, good for an hour and for `permissions` alone."""
        scope: dict[str, Any] = {"permissions": permissions}
        if self.github.repository:
            scope["repositories"] = [self.github.repository.partition("/")[2]]
        path = f"/app/installations/{self.github.installation_id}/access_tokens"
        body = self.call("POST", path, app_token(self.github.app_id, self.key, time.time()), scope).body
        return str(body["token"])

    def runners_token(self) -> str:
        """A token that can register and remove runners."""
        if self.github.repository:
            return self.token(administration="write")
        return self.token(organization_self_hosted_runners="write")

    def call(self, method: str, path: str, token: str, body: Any = None, *, accept: tuple[int, ...] = ()) -> Reply:
        """One request. A status in `accept` is an answer too; MintUnavailableError where asking again may help."""
        request = urllib.request.Request(  # noqa: S310  the address is the operator's
            self.github.api.rstrip("/") + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": API_VERSION,
                "Content-Type": "application/json",
                "User-Agent": "hub-runner",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
                return Reply(response.status, _json(response.read(MOST_BYTES)))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return _refused(f"{method} {path}", refusal, accept)
        except (OSError, HTTPException, ValueError) as failure:
            raise MintUnavailableError(f"{method} {path}: {getattr(failure, 'reason', failure)}") from None


def _json(data: bytes) -> Any:
    return json.loads(data) if data else None


def _refused(what: str, refusal: urllib.error.HTTPError, accept: tuple[int, ...]) -> Reply:
    text = refusal.read(MOST_BYTES)
    if refusal.code in accept:
        return Reply(refusal.code, _json(text))
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = refusal.reason
    told = f"{what}: {refusal.code} {message}{_skew(refusal.headers.get('Date'))}"[:500]
    limited = refusal.code == 403 and (refusal.headers.get("Retry-After") or "rate limit" in message.lower())
    if refusal.code in TRANSIENT or limited:
        raise MintUnavailableError(told)
    raise MintRefusedError(told)


def _skew(date: str | None) -> str:
    """What a refusal of an App's token often means: our clock is not GitHub's."""
    try:
        ahead = time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0
    except (TypeError, ValueError):
        return ""
    return f" (this host's clock is {ahead:+.0f} s off GitHub's)" if abs(ahead) > 30 else ""


def quoted(value: str) -> str:
    """A value inside a URL's query."""
    return urllib.parse.quote(value, safe="")
