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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e import openapi
from tests.e2e.fake_github import FakeGitHub
from tests.e2e.openapi import Answers

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PRISM = HERE / "node_modules/@stoplight/prism-cli/dist/index.js"
START_SECONDS = 240.0
VIOLATION = re.compile(r"Violation: (?!response Unable to match the returned status code)")
"""GitHub describes the errors of its calls incompletely: a 404 that it does not list is no violation."""


def missing() -> str:
    """Why the contract cannot be held here, "" where it can."""
    if shutil.which("node") is None:
        return "node is not installed: install Node.js 20 or newer"
    if not PRISM.is_file() or not openapi.DESCRIPTION.is_file():
        return "run `npm ci` in tests/e2e (make test does): GitHub's API description is not installed"
    return ""


class Contract:
    """A FakeGitHub and the address at which Prism guards it."""

    def __init__(self, fake: FakeGitHub, url: str, log: Path | None) -> None:
        self.fake = fake
        self.url = url
        self._log = log
        self._read = 0

    def violations(self) -> list[str]:
        """What Prism has complained about since it was last asked."""
        if self._log is None:
            return []
        text = self._log.read_text(encoding="utf-8", errors="replace")[self._read :]
        self._read += len(text)
        return violations(text)


@contextmanager
def guarded(folder: Path) -> Iterator[Contract]:
    """The fake behind Prism where npm's packages are installed, else the bare fake."""
    if missing():
        with FakeGitHub() as fake:
            yield Contract(fake, fake.url, None)
        return
    description = openapi.load()
    with FakeGitHub(answers=Answers(description)) as fake, proxied(description, fake.url, folder) as url:
        yield Contract(fake, url, folder / "prism.log")


@contextmanager
def proxied(description: dict[str, Any], upstream: str, folder: Path) -> Iterator[str]:
    """Prism between the caller and `upstream`: its address. What it says goes to `prism.log` in `folder`."""
    spec, log = folder / "github.json", folder / "prism.log"
    spec.write_text(json.dumps(description), encoding="utf-8")
    command = ["node", str(PRISM), "proxy", "--errors", "--host", "127.0.0.1", "--port", "0", str(spec), upstream]
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL) as prism,
    ):
        try:
            yield _address(prism, log)
        finally:
            prism.terminate()
            prism.wait(10)


def violations(text: str) -> list[str]:
    """The lines of Prism's log that name a request or an answer which breaks the description."""
    return [line for line in text.splitlines() if "terminated with error" in line or VIOLATION.search(line)]


def _address(prism: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and prism.poll() is None:
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"Prism did not start: {log.read_text(errors='replace')[-2000:]}")
