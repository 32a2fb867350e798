"""A client for GitHub's API as an App. Only the registrar uses it, because only the registrar may read the key.

Python never reads the key: openssl signs with it.
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

from hub_runner.interfaces import RegistrarRefusedError, RegistrarUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import GitHubSettings

TIMEOUT = 20.0
MAX_BYTES = 8 << 20
API_VERSION = "2022-11-28"
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Reply:
    """An answer of GitHub: its status and its JSON."""

    status: int
    body: Any


def sign_app_token(app_id: str, key: Path, now: float) -> str:
    """Sign a JSON Web Token (RS256) of the App.

    It is valid for nine minutes from a minute ago; GitHub allows ten.
    """
    claims = {"iat": int(now) - 60, "exp": int(now) + 480, "iss": app_id}
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    sign = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    try:
        answer = subprocess.run(sign, input=signed.encode(), capture_output=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as failure:
        raise RegistrarRefusedError(
            f"openssl could not sign with {key}: is it the App's private key? ({failure})"
        ) from None
    return f"{signed}.{_base64url(answer.stdout)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class GitHubApp:
    """One installation of the App. Each token is limited to one repository and to the permissions asked for."""

    def __init__(self, github: GitHubSettings, key: Path) -> None:
        self.github, self.key = github, key
        self.base = f"/repos/{github.repository}" if github.repository else f"/orgs/{github.organization}"

    def create_token(self, **permissions: str) -> str:
        """Create an installation token with `permissions` only, valid for an hour."""
        scope: dict[str, Any] = {"permissions": permissions}
        if self.github.repository:
            scope["repositories"] = [self.github.repository.partition("/")[2]]
        path = f"/app/installations/{self.github.installation_id}/access_tokens"
        body = self.request("POST", path, sign_app_token(self.github.app_id, self.key, time.time()), scope).body
        return str(body["token"])

    def create_runners_token(self) -> str:
        """Create a token that can register and remove runners."""
        if self.github.repository:
            return self.create_token(administration="write")
        return self.create_token(organization_self_hosted_runners="write")

    def request(self, method: str, path: str, token: str, body: Any = None, *, accept: tuple[int, ...] = ()) -> Reply:
        """Send one request; a status in `accept` is an answer too.

        Raises RegistrarUnavailableError where a retry may help, else RegistrarRefusedError.
        """
        http_request = urllib.request.Request(  # noqa: S310  the address is the operator's
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
            with urllib.request.urlopen(http_request, timeout=TIMEOUT) as response:  # noqa: S310
                return Reply(response.status, _decode_json(response.read(MAX_BYTES)))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return _read_refusal(f"{method} {path}", refusal, accept)
        except (OSError, HTTPException, ValueError) as failure:
            raise RegistrarUnavailableError(f"{method} {path}: {getattr(failure, 'reason', failure)}") from None


def _decode_json(data: bytes) -> Any:
    return json.loads(data) if data else None


def _read_refusal(what: str, refusal: urllib.error.HTTPError, accept: tuple[int, ...]) -> Reply:
    body = refusal.read(MAX_BYTES)
    if refusal.code in accept:
        return Reply(refusal.code, _decode_json(body))
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = refusal.reason
    text = f"{what}: {refusal.code} {message}{_describe_clock_skew(refusal.headers.get('Date'))}"[:500]
    limited = refusal.code == 403 and (refusal.headers.get("Retry-After") or "rate limit" in message.lower())
    if refusal.code in TRANSIENT or limited:
        raise RegistrarUnavailableError(text)
    raise RegistrarRefusedError(text)


def _describe_clock_skew(date: str | None) -> str:
    """Say how far our clock is off, a frequent reason why GitHub refuses a token."""
    try:
        ahead = time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0
    except (TypeError, ValueError):
        return ""
    return f" (this host's clock is {ahead:+.0f} s off GitHub's)" if abs(ahead) > 30 else ""


def quote_query(value: str) -> str:
    """Quote a value for a URL's query."""
    return urllib.parse.quote(value, safe="")
