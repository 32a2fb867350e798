"""Plan and report at the largest size that GitHub allows, against bare programs in the same run.

A matrix has at most 256 jobs. The report is made from files on disk, as the workflow's last job makes it: 256 result
files with 100 tests and their evidence each, a baseline of two nights, then report.md, report.json and report.html.
The plan is held against a Python that does nothing, the report against a Python that parses the same XML files and
does nothing else. Ratios of processor time do not depend on how fast the machine is today.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from benchmarks._client import peak
from benchmarks._figure import Figure, show
from benchmarks._process import ProcessCost, measure_process

ENTRIES, TESTS, MEASURES, NIGHTS = 256, 100, 2, 2
ROUNDS = 3
PLAN_TARGET, REPORT_TARGET = 30.0, 20.0


EXPAT = """
import sys
from pathlib import Path
from xml.parsers.expat import ParserCreate
for file in Path(sys.argv[1]).glob("*/junit.xml"):
    ParserCreate().Parse(file.read_bytes(), True)
"""
"""A program that reads the same result files and does nothing with them."""


def figures() -> list[Figure]:
    """Compare plan and report with the bare programs that run in turn with them."""
    with tempfile.TemporaryDirectory(prefix="hub-tests-bench-") as folder:
        write_inputs(Path(folder))
        commands = {
            "interpreter": ["-c", "pass"],
            "expat": ["-c", EXPAT, folder],
            "plan": ["-m", "benchmarks.report", "plan", folder],
            "report": ["-m", "benchmarks.report", "report", folder],
        }
        rounds = [{name: measure_process(words) for name, words in commands.items()} for _ in range(ROUNDS)]
    best = {name: min((costs[name] for costs in rounds), key=lambda cost: cost.cpu) for name in commands}
    plan, report = json.loads(best["plan"].output), json.loads(best["report"].output)
    return [
        Figure(
            f"plan of {ENTRIES} entries ÷ bare interpreter",
            best["plan"].cpu / best["interpreter"].cpu,
            "≤",
            PLAN_TARGET,
            how=f"{_seconds(best['plan'], best['interpreter'])}; {plan['note']}",
        ),
        Figure(
            f"report of {ENTRIES} entries x {TESTS} tests ÷ bare expat pass over the same files",
            best["report"].cpu / best["expat"].cpu,
            "≤",
            REPORT_TARGET,
            how=f"{_seconds(best['report'], best['expat'])}; {report['note']}",
        ),
        Figure("its memory", report["mebibytes"], "≤", 300, "MiB", "peak of the process"),
        Figure("heavy modules in either", len({*plan["heavy"], *report["heavy"]}), "=", 0),
    ]


def _seconds(cost: ProcessCost, bare: ProcessCost) -> str:
    return f"processor time, best of {ROUNDS}: {cost.cpu:.2f} s against {bare.cpu:.3f} s"


def registry() -> dict[str, Any]:
    """Return 256 entries of four formats."""
    from ci.models import HubModel

    formats = ("llama", "mistral", "mixtral", "qwen2")
    names = [f"model-{index:03d}" for index in range(ENTRIES)]
    return {name: HubModel(name, f"org/{name}", formats[i % 4], groups=("default",)) for i, name in enumerate(names)}


def plan() -> Any:
    """Return the plan of all entries, with 100 tests an entry."""
    from dataclasses import replace

    from ci.plan import RunRequest, make_plan

    made = make_plan(RunRequest("schedule", run_url="https://github.com/org/repo/actions/runs/1"), registry())
    entries = tuple(replace(entry, tests=tuple(tests_of(entry.name))) for entry in made.entries)
    return replace(made, entries=entries)


def tests_of(name: str) -> list[str]:
    """Return the test ids of an entry: the chain of steps, then variants up to 100."""
    chain = [
        f"{step}[{name}]" for step in ("test_download_and_truncate", "test_conversion", "test_forward_equivalence")
    ]
    return chain + [f"test_implementation[axis-v{n}-{name}]" for n in range(TESTS - len(chain))]


def write_inputs(folder: Path) -> None:
    """Write result files in which every tenth model fails in one of five ways."""
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
    """Return the history line of a green night of one entry."""
    from ci.report.history import HistoryCase, HistoryRecord, history_line

    cases = tuple(HistoryCase(test, "passed", used=0.1, seconds=1.25) for test in tests_of(name))
    return history_line(HistoryRecord(f"{date}T03:17:00Z", name, "passed", "0" * 40, cases, seconds=60.0))


def case(test: str, name: str, *, broken: bool, way: int) -> str:
    """Return one test case with its evidence as JUnit XML."""
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
    """Plan 256 entries and return a sentence about the size of what Actions gets."""
    from ci.plan import RunRequest, make_plan, matrix
    from ci.records import to_json

    made = make_plan(RunRequest("schedule"), registry())
    return f"{len(made.entries)} entries, {len(to_json(made)) + len(json.dumps(matrix(made)))} characters"


def verb_report(folder: str) -> str:
    """Write the three report files against two nights of history; return a sentence about them."""
    from ci.verbs.report import make_report

    made = plan()
    totals = make_report(made, Path(folder), Path(folder) / "out", baseline=Path(folder)).totals
    return f"{totals.tests:,} tests, {totals.failed} failed"


def child(verb: str, folder: str) -> None:
    """Run a verb here and print its note, heavy modules and peak memory as JSON."""
    note = verb_plan(folder) if verb == "plan" else verb_report(folder)
    heavy = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
    print(json.dumps({"note": note, "heavy": heavy, "mebibytes": peak() / 2**20}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
    else:
        sys.exit(show(figures()))
