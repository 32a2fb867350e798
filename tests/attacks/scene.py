"""A judge, a store, a report and secrets on one side; a pull request that attacks them on the other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci.environments.overlay import read_tail
from ci.hub.verified import SETTLED
from ci.subjects.exchange import remove_tree
from tests.ci.test_run import GATE_THEN_UP, UP_THEN_GATE
from tests.standin.recipes import TINY_REGISTRY

ROOT = Path(__file__).parents[2]
EVIL = "raise SystemExit(0)  # written by the pull request\n"
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ci.__main__ import main; sys.exit(main())"
"""Starts a judge that an environment variable cannot change, as an installed `hub-tests` under `python -I`."""

CACHED = (
    "kernel.bin",
    "wheels/torch-2.0-py3-none-any.whl",
    "environments/base/lib/python3.12/site-packages/torch/__init__.py",
    "hub/models--org--tiny/snapshots/0/config.json",
)
ACTIONS_FILES = ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_STATE")

PRELUDE = """
import ctypes, errno, json, os, resource, shutil, signal, socket, stat, subprocess, sys, threading, time
from pathlib import Path

WHERE = json.loads({where!r})
EVIL = {evil!r}


def say(*words):
    print("ATTACK", *words, flush=True)


def attempt(label, action):
    try:
        answer = action()
    except BaseException as error:
        say("refused:", label, "|", type(error).__name__, error)
    else:
        say("done:", label, "|", repr(answer)[:80])


def append(path):
    with open(path, "a") as file:
        file.write(EVIL)


def create(path):
    with open(path, "w") as file:
        file.write(EVIL)


def before(name, request):
    pass


def after(name, request, answer):
    return answer


"""
EPILOGUE = """

def wrap(kind, name):
    original = getattr(kind, name)

    def method(self, *arguments):
        before(name, *(arguments or (None,)))
        return after(name, *(arguments or (None,)), original(self, *arguments))

    setattr(kind, name, method)


def begin(kind):
    say("begins")
    for name in ("describe", "variants", "convert", "trace", "export"):
        wrap(kind, name)
"""
BEGIN = "\n\nfrom ci.subjects.reference import attack as _attack  # noqa: E402\n\n_attack.begin(ReferenceSubject)\n"


def hash_tree(*roots: Path) -> dict[str, str]:
    """Hash every file below the roots, without compiled Python, locks and leases: names and bytes."""
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "not a file"
        for file in files
        if "__pycache__" not in file.parts and not file.name.endswith((".lock", ".lease"))
    }


def insert_attack(checkout: Path, code: str, where: dict[str, Any]) -> None:
    """Make the worker of a checkout run `code` as it starts; `where` are paths that it knows."""
    reference = checkout / "ci" / "subjects" / "reference"
    prelude = PRELUDE.format(where=json.dumps(where), evil=EVIL)
    (reference / "attack.py").write_text(prelude + textwrap.dedent(code) + EPILOGUE)
    with (reference / "subject.py").open("a") as file:
        file.write(BEGIN)


@dataclass
class Scene:
    """What the judge owns, all below `root`; `endpoint` is the stand-in Hub.

    `prefix` and `start` are how hub-tests is started: under another program, and by which words of Python.
    """

    root: Path
    endpoint: str
    pins: Path | None = None
    runs: int = field(default=0)
    prefix: tuple[str, ...] = ()
    start: tuple[str, ...] = ("-I", "-c", START)

    @property
    def judge(self) -> Path:
        """The judge's checkout: a copy, so that an attack that gets through hurts nobody else."""
        return self.root / "judge"

    @property
    def protected(self) -> tuple[Path, ...]:
        """What no attack may change."""
        return (self.judge, self.root / "store", self.root / "actions", self.root / "secret", self.root / "caches")

    @property
    def cached(self) -> tuple[Path, ...]:
        """A file of each cache that a machine keeps: compiled code, wheels, environments, the Hub's."""
        return tuple(self.root / "caches" / name for name in CACHED)

    @property
    def temporary(self) -> Path:
        """TMPDIR of every run: empty before, and to be empty afterwards."""
        return self.root / "temporary"

    def build(self) -> None:
        """Lay everything out."""
        shutil.copytree(ROOT / "ci", self.judge / "ci", ignore=shutil.ignore_patterns("__pycache__"))
        suite = self.judge / "tests" / "integration"
        shutil.copytree(ROOT / "tests" / "integration", suite, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.judge)
        for name in ("actions", "caches", "temporary", "home", "store"):
            (self.root / name).mkdir()
        for name in ACTIONS_FILES:
            (self.root / "actions" / name).write_text("")
        for path in self.cached:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("kept from an earlier job")
        (self.root / "secret").write_text("a token that nobody under test may read")
        (self.root / "models.toml").write_text(TINY_REGISTRY)

    def environment(self) -> dict[str, str]:
        """The environment of `hub-tests run` in a job: with files, tokens and variables of Actions."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return {
            **kept,
            **{name: str(self.root / "actions" / name) for name in ACTIONS_FILES},
            "GITHUB_ACTIONS": "true",
            "GITHUB_TOKEN": "ghs_secret",
            "ACTIONS_RUNTIME_TOKEN": "secret",
            "HF_ENDPOINT": self.endpoint,
            "HUB_TESTS_CACHE": str(self.root / "store"),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(self.root / "caches"),
            "TRITON_CACHE_DIR": str(self.root / "caches"),
            "UV_FIND_LINKS": str(self.root / "caches" / "wheels"),
            "PIP_FIND_LINKS": str(self.root / "caches" / "wheels"),
            "HF_HUB_CACHE": str(self.root / "caches" / "hub"),
            "COLUMNS": "140",
            "OMP_NUM_THREADS": "1",
        }

    def hub_tests(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run hub-tests of the judge's checkout."""
        command = [
            *self.prefix,
            sys.executable,
            *self.start,
            *([str(self.judge)] if "-c" in self.start else []),
            *words,
        ]
        environ = {**self.environment(), **variables}
        return subprocess.run(
            command, cwd=self.root, env=environ, capture_output=True, text=True, check=False, timeout=900
        )

    def fetch(self) -> None:
        """Fetch the model once for all runs; the second call notes in the store that every byte was hashed.

        It does so only of files that have settled: else the first attacked run would, and change what is protected.
        """
        for wait in (0.0, SETTLED):
            time.sleep(wait)
            done = self.hub_tests("fetch", "tiny", "--registry", str(self.root / "models.toml"), "--json")
            assert done.returncode == 0, done.stdout + done.stderr
        assert list((self.root / "store" / "verified").iterdir())
        self.pins = self.root / "checkpoints.json"
        self.pins.write_text(done.stdout)

    def write_subject(self, code: str = "", *, broken: bool = True) -> Path:
        """Write a pull request: the reference with gate and up swapped, and `code` that its worker runs."""
        self.runs += 1
        checkout = self.root / f"checkout-{self.runs}"
        shutil.copytree(ROOT / "ci", checkout / "ci", ignore=shutil.ignore_patterns("__pycache__"))
        if broken:
            converter = checkout / "ci" / "subjects" / "reference" / "convert.py"
            text = converter.read_text()
            assert text.count(GATE_THEN_UP) == 1
            converter.write_text(text.replace(GATE_THEN_UP, UP_THEN_GATE))
        if code:
            insert_attack(checkout, code, self.where(checkout))
        return checkout

    def where(self, checkout: Path) -> dict[str, Any]:
        """Name the paths that an attacker may have guessed."""
        sites = [path for path in sys.path if path.endswith("site-packages")]
        return {
            "root": str(self.root),
            "judge": str(self.judge),
            "store": str(self.root / "store"),
            "secret": str(self.root / "secret"),
            "caches": str(self.root / "caches"),
            "cached": [str(path) for path in self.cached],
            "report": str(self.report),
            "home": str(self.root / "home"),
            "temporary": str(self.temporary),
            "actions": [str(self.root / "actions" / name) for name in ACTIONS_FILES],
            "sites": sites,
            "checkout": str(checkout),
            "marker": self.marker,
        }

    @property
    def marker(self) -> str:
        """A word that only this run's attack writes."""
        return f"hub-attack-{os.getpid()}-{self.runs}"

    @property
    def report(self) -> Path:
        """The report folder of the newest run."""
        return self.root / f"report-{self.runs}"

    def run(
        self,
        checkout: Path,
        *more: str,
        isolation: str = "required",
        **variables: str,
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """Judge a pull request; return the ended process and its report."""
        for left in self.temporary.iterdir():
            remove_tree(left)
        done = self.hub_tests(
            *("run", "tiny", "--registry", str(self.root / "models.toml"), "--device", "cpu"),
            *("--report", str(self.report), "--isolation", isolation),
            *("--checkpoints", str(self.pins), "--subject", "reference", "--timeout", "240"),
            *("--subject-python", sys.executable, "--subject-source", str(checkout), *more),
            **{"HF_TOKEN": "hf_secret", **variables},
        )
        written = self.report / "report.json"
        return done, json.loads(written.read_bytes()) if written.is_file() else {}

    def read_log(self) -> list[str]:
        """Return what the attack printed."""
        log = self.report / "logs" / "tiny-reference.log"
        with log.open(errors="replace") as file:
            begin = file.read(2**22)
        tail = read_tail(log, 2**20).decode(errors="replace") if log.stat().st_size > 2**22 else ""
        return [line.strip("\0") for line in (begin + tail).splitlines() if "ATTACK" in line]


def find_failures(results: dict[str, Any]) -> dict[str, str]:
    """Return the failure class of each failed test."""
    cases = [case for entry in results["entries"] for case in entry["cases"]]
    return {case["step"]: case["failure_class"] for case in cases if case["outcome"] in ("failed", "missing")}


def list_processes(marker: str) -> list[str]:
    """List the processes on this machine that name a marker in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in command:
            found.append(command)
    return found


def list_leftovers(marker: str) -> list[str]:
    """List files that a marker names where jobs could find them."""
    places = [Path(place) for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", str(Path.home()))]
    return [str(path) for place in places for path in place.glob(f"*{marker}*")]
