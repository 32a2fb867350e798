"""The one process that may ask GitHub for runners, and how the supervisor speaks to it.

systemd starts it for each connection to a socket that only root can open, as a user of its own, with the App's key as a
credential. One line of JSON comes in, one goes out. It serves this host's slots and nothing else: labels come from the
file, names must carry the host's name, and a runner of another host is never removed.
"""

from __future__ import annotations

import json
import re
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.doctor.probes import read_hub
from ci.doctor.records import ProbeAnswer
from ci.errors import HubTestsError, InfrastructureError
from hub_runner.github import GitHubApp, quoted
from hub_runner.outside import Jit, MintRefusedError, MintUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hub_runner.config import Config

MOST = 1 << 20
PAGES = 20
TIMEOUT = 120.0
MARKER = "<!-- hub-runner:{host} -->"


@dataclass(frozen=True)
class Registration:
    """One runner of this host, as GitHub lists it."""

    runner_id: int
    name: str
    online: bool
    busy: bool


class Minter:
    """The operations, by name. Every argument is checked: the caller is root, but its mistakes must stay here."""

    def __init__(self, config: Config, key: Path) -> None:
        self.config, self.app = config, GitHubApp(config.github, key)
        self.runners = f"{self.app.base}/actions/runners"

    def serve(self, line: str) -> str:
        """One request line to one answer line."""
        operations: dict[str, Callable[..., Any]] = {
            "jit": self.jit,
            "find": self.find,
            "remove": self.remove,
            "list": self.list,
            "report": self.report,
            "hub": self.hub,
        }
        try:
            request = json.loads(line)
            return json.dumps({"ok": operations[request.pop("op")](**request)})
        except MintUnavailableError as failure:
            return json.dumps({"unavailable": str(failure)})
        except HubTestsError as refusal:
            return json.dumps({"refused": str(refusal)})
        except (ValueError, TypeError, KeyError, AttributeError) as nonsense:
            return json.dumps({"refused": f"not a request, or not GitHub's answer: {nonsense!r}"[:300]})

    def jit(self, slot: int, name: str) -> dict[str, Any]:
        """A single-use runner for one of this host's slots."""
        if not re.fullmatch(rf"{re.escape(self.config.host.name)}-{int(slot)}-[0-9a-f]{{8}}", name):
            raise MintRefusedError(f"{name!r} is no name of slot {slot} of {self.config.host.name}")
        wish = {
            "name": name,
            "runner_group_id": self.config.github.runner_group_id,
            "labels": list(self.config.slot(slot).labels),
            "work_folder": "_work",
        }
        body = self.app.call("POST", f"{self.runners}/generate-jitconfig", self.app.runners_token(), wish).body
        return {"runner_id": int(body["runner"]["id"]), "config": str(body["encoded_jit_config"])}

    def find(self, name: str) -> int | None:
        """The runner of that very name."""
        path = f"{self.runners}?name={quoted(name)}&per_page=100"
        found = self.app.call("GET", path, self.app.runners_token()).body["runners"]
        return next((int(each["id"]) for each in found if each["name"] == name), None)

    def remove(self, runner_id: int) -> Literal["removed", "busy"]:
        """Take a registration of this host back; GitHub answers 422 for one that has a job."""
        token, path = self.app.runners_token(), f"{self.runners}/{int(runner_id)}"
        known = self.app.call("GET", path, token, accept=(404,))
        if known.status == 404:
            return "removed"
        if not self._ours(known.body["name"]):
            raise MintRefusedError(f"runner {runner_id} is {known.body['name']!r}, not of {self.config.host.name}")
        return "busy" if self.app.call("DELETE", path, token, accept=(404, 422)).status == 422 else "removed"

    def list(self) -> Sequence[dict[str, Any]]:
        """Every runner that is registered under this host's name."""
        token = self.app.runners_token()
        return [
            {"runner_id": int(e["id"]), "name": e["name"], "online": e["status"] == "online", "busy": bool(e["busy"])}
            for e in self._all(token)
            if self._ours(e["name"])
        ]

    def hub(self, endpoint: str) -> dict[str, Any]:
        """Does the Hub answer, and how far is our clock ahead of its? The supervisor has no network to ask through."""
        answer, skew = read_hub(endpoint)
        return {"ok": answer.ok, "text": answer.text, "skew": skew}

    def _ours(self, name: str) -> bool:
        return re.fullmatch(rf"{re.escape(self.config.host.name)}-\d+-[0-9a-f]{{8}}", name) is not None

    def _all(self, token: str) -> Sequence[dict[str, Any]]:
        found: deque[dict[str, Any]] = deque()
        for page in range(1, PAGES + 1):
            body = self.app.call("GET", f"{self.runners}?per_page=100&page={page}", token).body
            found.extend(body["runners"])
            if len(found) >= body["total_count"] or not body["runners"]:
                break
        return tuple(found)

    def report(self, text: str) -> str:
        """Keep one open issue that says which slots are out of order; "" closes it. What was done, in a word."""
        marker = MARKER.format(host=self.config.host.name)
        token, path = self.app.token(issues="write"), f"{self.app.base}/issues"
        issue = self._issue(token, marker)
        if not text:
            return self._close(token, issue)
        wish = {"title": f"Runner host {self.config.host.name}: out of order", "body": f"{marker}\n{text}"[:60_000]}
        if issue is None:
            self.app.call("POST", path, token, {**wish, "labels": ["hub-runner"]})
            return "opened"
        if issue["body"] == wish["body"]:
            return "unchanged"
        self.app.call("PATCH", f"{path}/{int(issue['number'])}", token, wish)
        return "updated"

    def _issue(self, token: str, marker: str) -> dict[str, Any] | None:
        """Ours is the one that this App opened: anybody can write a marker."""
        path = f"{self.app.base}/issues?labels=hub-runner&state=open&per_page=100"
        for issue in self.app.call("GET", path, token).body:
            app = issue.get("performed_via_github_app") or {}
            by_us = self.config.github.app_id in (str(app.get("id")), app.get("client_id"))
            if by_us and (issue.get("body") or "").startswith(marker):
                return dict(issue)
        return None

    def _close(self, token: str, issue: dict[str, Any] | None) -> str:
        if issue is None:
            return "unchanged"
        path = f"{self.app.base}/issues/{int(issue['number'])}"
        self.app.call("PATCH", path, token, {"state": "closed", "state_reason": "completed"})
        return "closed"


class MintClient:
    """The supervisor's side of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def jit(self, slot: int, name: str) -> Jit:
        """Register a single-use runner with the slot's labels."""
        return Jit(**self._ask(op="jit", slot=slot, name=name))

    def find(self, name: str) -> int | None:
        """The id of the runner registered under `name`."""
        found: int | None = self._ask(op="find", name=name)
        return found

    def remove(self, runner_id: int) -> Literal["removed", "busy"]:
        """Take a registration back."""
        answer: Literal["removed", "busy"] = self._ask(op="remove", runner_id=runner_id)
        return answer

    def list(self) -> tuple[Registration, ...]:
        """Every runner that is registered under this host's name."""
        return tuple(Registration(**each) for each in self._ask(op="list"))

    def hub(self, endpoint: str) -> tuple[ProbeAnswer, float | None]:
        """Does the Hub answer, and how many seconds is our clock ahead?"""
        try:
            answer = self._ask(op="hub", endpoint=endpoint)
        except InfrastructureError as failure:
            return ProbeAnswer(False, str(failure)), None
        return ProbeAnswer(answer["ok"], answer["text"]), answer["skew"]

    def report(self, text: str) -> str:
        """Say on GitHub what is out of order; "" when nothing is."""
        return str(self._ask(op="report", text=text))

    def _ask(self, **request: Any) -> Any:
        try:
            answer = json.loads(self._exchange(json.dumps(request).encode() + b"\n"))
        except (OSError, ValueError) as failure:
            raise MintUnavailableError(f"the minting unit at {self.path} did not answer: {failure}") from None
        if "unavailable" in answer:
            raise MintUnavailableError(answer["unavailable"])
        if "refused" in answer:
            raise MintRefusedError(answer["refused"])
        return answer["ok"]

    def _exchange(self, line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self.path))
            connection.sendall(line)
            with connection.makefile("rb") as answer:
                return answer.readline(MOST)
