"""Plan and report at the largest size GitHub allows, in fresh processes that have no torch: seconds and memory.

A matrix has at most 256 jobs. The report is made from files on disk as the workflow's last job makes it: 256 result
files of 100 tests with evidence each, a baseline of two nights, then report.md, report.json and report.html.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from benchmarks._client import peak
from benchmarks._figure import Figure, show

ENTRIES, TESTS, MEASURES, NIGHTS = 256, 100, 2, 2
ROUNDS = 3


def figures() -> list[Figure]:
    """Processor seconds, the best of a few, and memory; the clock counts what else the machine does as well."""
    with tempfile.TemporaryDirectory(prefix="hub-tests-bench-") as folder:
        write_inputs(Path(folder))
        plan, report = (
            min((measured(verb, folder) for _ in range(ROUNDS)), key=seconds) for verb in ("plan", "report")
        )
    return [
        Figure("plan of 256 entries", seconds(plan), "≤", 0.6, "s", _how(plan)),
        Figure("report of 256 entries x 100 tests", seconds(report), "≤", 3.0, "s", _how(report)),
        Figure("its memory", report["mebibytes"], "≤", 300, "MiB", "peak of the process"),
        Figure("heavy modules in either", len({*plan["heavy"], *report["heavy"]}), "=", 0),
    ]


def seconds(row: dict[str, Any]) -> float:
    """What a round took of the processor, from the start of its process to the end."""
    return float(row["cpu"])


def _how(row: dict[str, Any]) -> str:
    return f"processor time of a fresh process, best of {ROUNDS}, {row['clock']:.2f} s on the clock; {row['note']}"


def measured(verb: str, folder: str) -> dict[str, Any]:
    """One verb in a fresh interpreter, its start and its end with it."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.report", verb, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{verb} ended with exit code {process.returncode}")
    return {**json.loads(said), "cpu": used.ru_utime + used.ru_stime, "clock": time.monotonic() - started}


def registry() -> dict[str, Any]:
    """256 entries of four formats."""
    from ci.models import HubModel

    formats = ("llama", "mistral", "mixtral", "qwen2")
    names = [f"model-{index:03d}" for index in range(ENTRIES)]
    return {name: HubModel(name, f"org/{name}", formats[i % 4], groups=("default",)) for i, name in enumerate(names)}


def plan() -> Any:
    """The plan of everything, with 100 tests an entry."""
    from dataclasses import replace

    from ci.plan import RunRequest, make_plan

    made = make_plan(RunRequest("schedule", run_url="https://github.com/org/repo/actions/runs/1"), registry())
    entries = tuple(replace(entry, tests=tuple(tests_of(entry.name))) for entry in made.entries)
    return replace(made, entries=entries)


def tests_of(name: str) -> list[str]:
    """Ids of an entry's tests: the chain, and as many variants as it takes."""
    chain = [
        f"{step}[{name}]" for step in ("test_download_and_truncate", "test_conversion", "test_forward_equivalence")
    ]
    return chain + [f"test_implementation[axis-v{n}-{name}]" for n in range(TESTS - len(chain))]


def write_inputs(folder: Path) -> None:
    """Result files in which every tenth model fails in one of five ways."""
    for index, name in enumerate(registry()):
        cases = "".join(
            case(test, name, broken=index % 10 == 0 and n == 2, way=index % 5) for n, test in enumerate(tests_of(name))
        )
        (folder / f"{name}.1").mkdir()
        xml = f"<testsuites><testsuite name='pytest'>{cases}</testsuite></testsuites>"
        (folder / f"{name}.1" / "junit.xml").write_text(xml)
    for night in range(1, NIGHTS + 1):
        date = f"2026-08-{night:02d}"
        (folder / f"{date}.jsonl").write_text("".join(line(name, date) for name in registry()))


def line(name: str, date: str) -> str:
    """One green night of an entry."""
    from ci.report.history import HistoryCase, HistoryRecord, history_line

    cases = tuple(HistoryCase(test, "passed", used=0.1, seconds=1.25) for test in tests_of(name))
    return history_line(HistoryRecord(f"{date}T03:17:00Z", name, "passed", "0" * 40, cases, seconds=60.0))


def case(test: str, name: str, *, broken: bool, way: int) -> str:
    """One test case with its evidence."""
    from ci.evidence import Evidence, Measure, to_property

    def measure(index: int) -> Measure:
        error = 1e-2 if broken else 1e-7
        return Measure(f"decoder.{index}", "float32", (2, 64, 4096), error, 1e-6, 1e-7, passed=not broken)

    measures = tuple(map(measure, range(MEASURES)))
    text = f"layer {way}, attention: wrong"
    known = Evidence(
        name,
        test.split("[")[0],  # type: ignore[arg-type]
        model_id=f"org/{name}",
        revision="0" * 40,
        failure_class="numeric_mismatch" if broken else None,
        diagnosis=text if broken else "",
        worst=measures[0],
        measures=measures,
    )
    inner = f"<properties><property name='hub-tests' value={quoteattr(to_property(known)[1])}/></properties>"
    trace = "E   a line of a traceback\n" * 60
    inner += f"<failure message='{text}'>{trace}</failure>" if broken else ""
    return f"<testcase name={quoteattr(test)} time='1.25'>{inner}</testcase>"


def verb_plan(_: str) -> str:
    """Plan 256 entries and print what Actions gets."""
    from ci.plan import RunRequest, make_plan, matrix
    from ci.records import to_json

    made = make_plan(RunRequest("schedule"), registry())
    return f"{len(made.entries)} entries, {len(to_json(made)) + len(json.dumps(matrix(made)))} characters"


def verb_report(folder: str) -> str:
    """Collect, judge against two nights of history, write the three files."""
    from ci.verbs.report import make_report

    made = plan()
    totals = make_report(made, Path(folder), Path(folder) / "out", baseline=Path(folder)).totals
    return f"{totals.tests:,} tests, {totals.failed} failed"


def child(verb: str, folder: str) -> None:
    """Runs a verb and says what came of it, as JSON."""
    note = verb_plan(folder) if verb == "plan" else verb_report(folder)
    heavy = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
    print(json.dumps({"note": note, "heavy": heavy, "mebibytes": peak() / 2**20}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
    else:
        sys.exit(show(figures()))
