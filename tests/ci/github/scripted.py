"""A GitHub that gives prepared answers in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from ci.github.api import ApiSettings
from ci.github.client import Client


@dataclass(frozen=True)
class Thing:
    id: int


class Scripted:
    """A GitHub that gives the prepared answers in order; `slept` collects the waits."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now = 100.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def client(self, **changes: Any) -> Client:
        api = ApiSettings("o/r", "t", "http://127.0.0.1:1", **changes)
        return Client(api, sleep=self.sleep, clock=lambda: self.now, transport=httpx.MockTransport(self))


def ok(body: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json={"id": 1} if body is None else body)


def no(status: int, message: str = "no", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"message": message}, headers=named)


def read(client: Client) -> Thing:
    return client.get(Thing, "/thing")


def make(client: Client) -> Thing:
    return client.write(Thing, "POST", "/things", {})
