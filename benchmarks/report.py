"""Plan and report at the largest size GitHub allows, in fresh processes that have no torch: seconds and memory.

    python -m benchmarks.report

A matrix has at most 256 jobs. The report is made from files on disk as the workflow's last job makes it: 256 result
files of 100 tests with evidence each, a baseline of two nights, then report.md, report.json and
report.html. The ratio is to a bare reading of the same XML by the standard library.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

ENTRIES, TESTS, MEASURES, NIGHTS = 256, 100, 2, 2
LIMITS = {"plan": 0.6, "report": 3.0}
MEBIBYTES = 300


def main() -> int:
    """Measures both in processes of their own; exit code 1 where a limit is broken."""
    with tempfile.TemporaryDirectory(prefix="hub-tests-bench-") as folder:
        write_inputs(Path(folder))
        rows = [measured(verb, folder) for verb in ("plan", "report")]
    ok = True
    for row in rows:
        limit = LIMITS[row["verb"]]
        good = row["cpu"] <= limit and row["mebibytes"] <= MEBIBYTES and not row["heavy"]
        ok = ok and good
        took = f"{row['cpu']:5.2f} s of {limit} s ({row['seconds']:.2f} s on the clock)"
        size = f"{row['mebibytes']:4.0f} MiB of {MEBIBYTES} MiB"
        print(f"{row['verb']:7} {took}, {size}, heavy modules: {row['heavy'] or 'none'}, {row['note']}")
    return 0 if ok else 1


def measured(verb: str, folder: str) -> dict[str, Any]:
    """One verb in a fresh interpreter; its time counts from the start of the process."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", verb, folder], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started
    return {**json.loads(done.stdout), "verb": verb, "seconds": seconds}


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
    from ci.verbs.report import report

    made = plan()
    started = time.process_time()
    results = report(made, Path(folder), Path(folder) / "out", baseline=Path(folder))
    spent = time.process_time() - started
    totals = results.totals
    return f"{totals.tests} tests, {totals.failed} failed, {spent / bare(folder):.1f} x bare reading of the XML"


def bare(folder: str) -> float:
    """Seconds that the standard library takes to read the same XML."""
    started = time.process_time()
    for path in Path(folder).glob("*/junit.xml"):
        ET.parse(path)
    return time.process_time() - started


def child(verb: str, folder: str) -> None:
    """Runs a verb and says what it took, as JSON."""
    note = verb_plan(folder) if verb == "plan" else verb_report(folder)
    heavy = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"note": note, "heavy": heavy, "mebibytes": used.ru_maxrss / 1024, "cpu": cpu}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
    else:
        sys.exit(main())
