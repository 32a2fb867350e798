"""The stand-in for GitHub behind Prism: every request and every answer is held against GitHub's own description.

Prism answers 422 to a request that breaks the description, and 500 to an answer of the fake that does
(https://docs.stoplight.io/docs/prism/1593d1470e4df-concepts#proxy-mode). Its log tells both apart from errors that the
fake answered by itself.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.e2e import openapi
from tests.e2e.fake_github import FakeGitHub
from tests.e2e.openapi import Answers

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PRISM = HERE / "node_modules/@stoplight/prism-cli/dist/index.js"
REDIRECTS = HERE / "js/pass_redirects_on.cjs"
START_SECONDS = 240.0
MARK = "/no-api-has-this/"
VIOLATION = re.compile(r"Violation: (?!response Unable to match the returned status code)")
"""GitHub describes the errors of its calls incompletely: a 404 that it does not list is no violation."""


def missing() -> str:
    """Why the contract cannot be held here, "" where it can."""
    if shutil.which("node") is None:
        return "node is not installed: install Node.js 20 or newer"
    if not PRISM.is_file() or not openapi.DESCRIPTION.is_file():
        return "run `npm ci` in tests/e2e (make test does): GitHub's API description is not installed"
    return ""


class Prism:
    """The address of a running Prism, and what it says."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log
        self._read = self._asked = 0

    def violations(self) -> list[str]:
        """What it has complained about since it was last asked: the lines that name a breach of the description.

        It writes a little later than it answers, so that it is asked for a path of no API: what it says of every
        request before is written once it speaks of this one.
        """
        text = self._until(self._ask())
        self._read += len(text)
        lines = (line for line in text.splitlines() if MARK not in line)
        return [line for line in lines if "terminated with error" in line or VIOLATION.search(line)]

    def _ask(self) -> str:
        self._asked += 1
        mark = f"{MARK}{self._asked} "
        with suppress(HTTPError):
            urlopen(f"{self.url}{mark.strip()}", timeout=10).close()
        return mark

    def _until(self, mark: str) -> str:
        """The whole lines that were not read yet, when one of them holds the mark."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            text = self.log.read_text(encoding="utf-8", errors="replace")[self._read :]
            whole = text[: text.rfind("\n") + 1]
            if mark in whole:
                return whole
            time.sleep(0.01)
        raise RuntimeError(f"Prism did not say a word about {mark}: {text[-2000:]}")


class Contract:
    """A FakeGitHub and the address at which Prism guards it."""

    def __init__(self, fake: FakeGitHub, prism: Prism | None) -> None:
        self.fake, self.prism = fake, prism
        self.url = prism.url if prism else fake.url

    def violations(self) -> list[str]:
        """What Prism has complained about since it was last asked."""
        return self.prism.violations() if self.prism else []


@contextmanager
def guarded(folder: Path) -> Iterator[Contract]:
    """The fake behind Prism where npm's packages are installed, else the bare fake."""
    if missing():
        with FakeGitHub() as fake:
            yield Contract(fake, None)
        return
    description = openapi.load()
    with FakeGitHub(answers=Answers(description)) as fake, proxied(description, fake.url, folder) as prism:
        yield Contract(fake, prism)


@contextmanager
def proxied(description: dict[str, Any], upstream: str, folder: Path) -> Iterator[Prism]:
    """Prism between the caller and `upstream`. What it says goes to `prism.log` in `folder`."""
    spec, log = folder / "github.json", folder / "prism.log"
    spec.write_text(json.dumps(description), encoding="utf-8")
    command = [
        "node",
        "--require",
        str(REDIRECTS),
        str(PRISM),
        "proxy",
        "--errors",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        str(spec),
        upstream,
    ]
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            yield Prism(_address(process, log), log)
        finally:
            process.terminate()
            process.wait(10)


def _address(prism: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and prism.poll() is None:
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"Prism did not start: {log.read_text(errors='replace')[-2000:]}")
