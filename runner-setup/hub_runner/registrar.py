"""The registrar: the only process that may register runners at GitHub, and the supervisor's client for it.

systemd starts one process for each connection to a socket that only root can open. The process has a user of its
own and the App's key as a credential. It reads one line of JSON and writes one. It serves the slots of this host only:
labels come from the file, names must begin with the host's name, and a runner of another host is never removed.
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
from hub_runner.github import GitHubApp, quote_query
from hub_runner.interfaces import JitRunner, RegistrarRefusedError, RegistrarUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hub_runner.config import Config

MAX_LINE = 1 << 20
MAX_PAGES = 20
TIMEOUT = 120.0
MARKER = "<!-- hub-runner:{host} -->"


@dataclass(frozen=True)
class Registration:
    """A runner of this host as GitHub lists it."""

    runner_id: int
    name: str
    online: bool
    busy: bool


class RegistrarService:
    """The operations by name. Every argument is checked although only root can call: GitHub must see no mistake."""

    def __init__(self, config: Config, key: Path) -> None:
        self.config, self.app = config, GitHubApp(config.github, key)
        self.runners = f"{self.app.base}/actions/runners"

    def serve(self, line: str) -> str:
        """ProbeAnswer one line of JSON with one line of JSON."""
        operations: dict[str, Callable[..., Any]] = {
            "jit": self.register,
            "find": self.find_runner,
            "remove": self.remove_runner,
            "list": self.list_runners,
            "report": self.update_issue,
            "hub": self.check_hub,
        }
        try:
            request = json.loads(line)
            return json.dumps({"ok": operations[request.pop("op")](**request)})
        except RegistrarUnavailableError as failure:
            return json.dumps({"unavailable": str(failure)})
        except HubTestsError as refusal:
            return json.dumps({"refused": str(refusal)})
        except (ValueError, TypeError, KeyError, AttributeError) as invalid:
            return json.dumps({"refused": f"the request or GitHub's answer has an unexpected form: {invalid!r}"[:300]})

    def register(self, slot: int, name: str) -> dict[str, Any]:
        """Register a single-use runner for one of this host's slots."""
        if not re.fullmatch(rf"{re.escape(self.config.host.name)}-{int(slot)}-[0-9a-f]{{8}}", name):
            raise RegistrarRefusedError(f"{name!r} is not a runner name of slot {slot} of {self.config.host.name}")
        request = {
            "name": name,
            "runner_group_id": self.config.github.runner_group_id,
            "labels": list(self.config.get_slot(slot).labels),
            "work_folder": "_work",
        }
        body = self.app.request(
            "POST", f"{self.runners}/generate-jitconfig", self.app.create_runners_token(), request
        ).body
        return {"runner_id": int(body["runner"]["id"]), "config": str(body["encoded_jit_config"])}

    def find_runner(self, name: str) -> int | None:
        """Return the id of the runner with exactly this name."""
        path = f"{self.runners}?name={quote_query(name)}&per_page=100"
        runners = self.app.request("GET", path, self.app.create_runners_token()).body["runners"]
        return next((int(each["id"]) for each in runners if each["name"] == name), None)

    def remove_runner(self, runner_id: int) -> Literal["removed", "busy"]:
        """Remove a registration of this host; "busy" where GitHub answers 422 because it has a job."""
        token, path = self.app.create_runners_token(), f"{self.runners}/{int(runner_id)}"
        known = self.app.request("GET", path, token, accept=(404,))
        if known.status == 404:
            return "removed"
        if not self._is_ours(known.body["name"]):
            raise RegistrarRefusedError(f"runner {runner_id} is {known.body['name']!r}, not of {self.config.host.name}")
        return "busy" if self.app.request("DELETE", path, token, accept=(404, 422)).status == 422 else "removed"

    def list_runners(self) -> Sequence[dict[str, Any]]:
        """List every runner that is registered under this host's name."""
        token = self.app.create_runners_token()
        return [
            {"runner_id": int(e["id"]), "name": e["name"], "online": e["status"] == "online", "busy": bool(e["busy"])}
            for e in self._list_all(token)
            if self._is_ours(e["name"])
        ]

    def check_hub(self, endpoint: str) -> dict[str, Any]:
        """Ask the Hub and compare clocks: the supervisor has no network of its own.

        `skew`: seconds that this host's clock is ahead of the Hub's.
        """
        answer, skew = read_hub(endpoint)
        return {"ok": answer.ok, "text": answer.text, "skew": skew}

    def _is_ours(self, name: str) -> bool:
        return re.fullmatch(rf"{re.escape(self.config.host.name)}-\d+-[0-9a-f]{{8}}", name) is not None

    def _list_all(self, token: str) -> Sequence[dict[str, Any]]:
        runners: deque[dict[str, Any]] = deque()
        for page in range(1, MAX_PAGES + 1):
            body = self.app.request("GET", f"{self.runners}?per_page=100&page={page}", token).body
            runners.extend(body["runners"])
            if len(runners) >= body["total_count"] or not body["runners"]:
                break
        return tuple(runners)

    def update_issue(self, text: str) -> str:
        """Open, update or close the issue about slots in quarantine; "" closes it.

        Returns what was done: opened, updated, closed or unchanged.
        """
        marker = MARKER.format(host=self.config.host.name)
        token, path = self.app.create_token(issues="write"), f"{self.app.base}/issues"
        issue = self._find_issue(token, marker)
        if not text:
            return self._close_issue(token, issue)
        content = {
            "title": f"Runner host {self.config.host.name}: slots in quarantine",
            "body": f"{marker}\n{text}"[:60_000],
        }
        if issue is None:
            self.app.request("POST", path, token, {**content, "labels": ["hub-runner"]})
            return "opened"
        if issue["body"] == content["body"]:
            return "unchanged"
        self.app.request("PATCH", f"{path}/{int(issue['number'])}", token, content)
        return "updated"

    def _find_issue(self, token: str, marker: str) -> dict[str, Any] | None:
        """Find the issue that this App opened; anybody can copy the marker."""
        path = f"{self.app.base}/issues?labels=hub-runner&state=open&per_page=100"
        for issue in self.app.request("GET", path, token).body:
            app = issue.get("performed_via_github_app") or {}
            by_us = self.config.github.app_id in (str(app.get("id")), app.get("client_id"))
            if by_us and (issue.get("body") or "").startswith(marker):
                return dict(issue)
        return None

    def _close_issue(self, token: str, issue: dict[str, Any] | None) -> str:
        if issue is None:
            return "unchanged"
        path = f"{self.app.base}/issues/{int(issue['number'])}"
        self.app.request("PATCH", path, token, {"state": "closed", "state_reason": "completed"})
        return "closed"


class RegistrarClient:
    """The supervisor's side of the registrar's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def register(self, slot: int, name: str) -> JitRunner:
        """Register a single-use runner with the slot's labels."""
        return JitRunner(**self._ask(op="jit", slot=slot, name=name))

    def find_runner(self, name: str) -> int | None:
        """Return the id of the runner with this name; None when there is none."""
        runner_id: int | None = self._ask(op="find", name=name)
        return runner_id

    def remove_runner(self, runner_id: int) -> Literal["removed", "busy"]:
        """Remove a registration; "busy" while it has a job."""
        answer: Literal["removed", "busy"] = self._ask(op="remove", runner_id=runner_id)
        return answer

    def list_runners(self) -> tuple[Registration, ...]:
        """List every runner that is registered under this host's name."""
        return tuple(Registration(**each) for each in self._ask(op="list"))

    def check_hub(self, endpoint: str) -> tuple[ProbeAnswer, float | None]:
        """Return whether the Hub answers, and the seconds that our clock is ahead."""
        try:
            answer = self._ask(op="hub", endpoint=endpoint)
        except InfrastructureError as failure:
            return ProbeAnswer(False, str(failure)), None
        return ProbeAnswer(answer["ok"], answer["text"]), answer["skew"]

    def update_issue(self, text: str) -> str:
        """Open, update or close the issue about slots in quarantine; "" closes it."""
        return str(self._ask(op="report", text=text))

    def _ask(self, **request: Any) -> Any:
        try:
            answer = json.loads(self._exchange(json.dumps(request).encode() + b"\n"))
        except (OSError, ValueError) as failure:
            raise RegistrarUnavailableError(
                f"the registrar at {self.path} did not answer: {failure}; see `journalctl -u 'hub-runner-registrar*'`"
            ) from None
        if "unavailable" in answer:
            raise RegistrarUnavailableError(answer["unavailable"])
        if "refused" in answer:
            raise RegistrarRefusedError(answer["refused"])
        return answer["ok"]

    def _exchange(self, line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self.path))
            connection.sendall(line)
            with connection.makefile("rb") as answer:
                return answer.readline(MAX_LINE)
