"""JUnit XML as hostile input: what was complete is kept, what is wrong is named, nothing is believed.

The file was written beside a pull request's code: it may be forged, endless, nested without end, cut off in the
middle, or not XML at all. It is parsed as a stream, any document type is refused, so no entity is ever expanded.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from junitparser import Error, Failure, Skipped, TestCase

from ci.report.escape import clean, clip, one_line
from ci.report.limits import INPUT, InputLimits

if TYPE_CHECKING:
    from pathlib import Path

RawOutcome = Literal["passed", "failed", "error", "skipped"]
_CHUNK = 2**16
_OUTCOMES: dict[type, RawOutcome] = {Failure: "failed", Error: "error", Skipped: "skipped"}


@dataclass(frozen=True, slots=True)
class Case:
    """One `<testcase>`: its name as pytest wrote it, outcome, seconds, and text already cleaned.

    `evidence` is the raw value of the property `hub-tests`, None where there is none.
    """

    name: str
    outcome: RawOutcome
    seconds: float = 0.0
    message: str = ""
    detail: str = ""
    evidence: str | None = None


@dataclass(frozen=True)
class Junit:
    """The complete cases of one file. `problem` says in one line why the file cannot be trusted to be whole."""

    cases: tuple[Case, ...] = ()
    problem: str | None = None
    missing: bool = False


def read_junit(source: bytes | Path, limits: InputLimits = INPUT) -> Junit:
    """The cases of a JUnit file or of its bytes. Never raises for its content: see `Junit.problem`."""
    if not isinstance(source, bytes):
        content = _read(source, limits)
        return content if isinstance(content, Junit) else read_junit(content, limits)
    if len(source) > limits.xml_bytes:
        return Junit(problem=f"result file larger than {limits.xml_bytes // 2**20} MiB")
    reader = _Reader(limits)
    problem = reader.parse(source)
    if problem is None and not reader.cases:
        problem = "result file holds no tests"
    return Junit(tuple(reader.cases), problem)


def _read(path: Path, limits: InputLimits) -> bytes | Junit:
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            return Junit(problem="result file is a link or not a plain file", missing=True)
        if facts.st_size > limits.xml_bytes:
            return Junit(problem=f"result file larger than {limits.xml_bytes // 2**20} MiB")
        return path.read_bytes()
    except OSError:
        return Junit(problem="no result file", missing=True)


class _RefusedError(Exception):
    """The content breaks a limit or brings a document type."""


class _Reader:
    """Streams XML into junitparser's test cases, one `<testcase>` at a time."""

    def __init__(self, limits: InputLimits) -> None:
        self.cases: list[Case] = []
        self._limits = limits
        self._depth = 0
        self._chars = 0
        self._case: TreeBuilder | None = None
        self._case_depth = 0

    def parse(self, content: bytes) -> str | None:
        """Reads all of `content`; returns what was wrong with it."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._doctype
        try:
            for at in range(0, len(content), _CHUNK):
                parser.Parse(content[at : at + _CHUNK], False)
            parser.Parse(b"", True)
        except _RefusedError as refused:
            return str(refused)
        except (expat.ExpatError, ValueError, LookupError) as error:
            return f"result file is cut off or not valid XML ({one_line(str(error), 100)})"
        return None

    def _doctype(self, *_: Any) -> None:
        raise _RefusedError("result file brings a document type or entities")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > self._limits.depth or len(attributes) > self._limits.attributes:
            raise _RefusedError(f"result file nested deeper than {self._limits.depth} or with too many attributes")
        if self._case is None and tag == "testcase":
            if len(self.cases) >= self._limits.cases:
                raise _RefusedError(f"result file holds more than {self._limits.cases} tests")
            self._case, self._case_depth, self._chars = TreeBuilder(), self._depth, 0
        if self._case is not None:
            self._count(sum(map(len, attributes.values())))
            self._case.start(tag, attributes)

    def _end(self, tag: str) -> None:
        if self._case is not None:
            self._case.end(tag)
            if self._depth == self._case_depth:
                self.cases.append(_case(self._case.close(), self._limits))
                self._case = None
        self._depth -= 1

    def _data(self, data: str) -> None:
        if self._case is not None:
            self._count(len(data))
            self._case.data(data)

    def _count(self, chars: int) -> None:
        self._chars += chars
        if self._chars > self._limits.element_chars:
            raise _RefusedError(f"a test with more than {self._limits.element_chars} characters of text")


def _case(element: Element, limits: InputLimits) -> Case:
    shown = _worst_result(element)
    return Case(
        name=one_line(element.get("name") or "", limits.name_chars),
        outcome=_OUTCOMES[type(shown)] if shown else "passed",
        seconds=_seconds(element.get("time")),
        message=clip(clean((shown.message or "")[: limits.message_chars * 4]), limits.message_chars) if shown else "",
        detail=_tail(clean((shown.text or "")[-limits.detail_chars * 4 :]), limits.detail_chars) if shown else "",
        evidence=_property(element),
    )


def _worst_result(element: Element) -> Failure | Error | Skipped | None:
    """What makes the case not a pass. Only then is junitparser asked: passes are many, and it takes its time."""
    if all(child.tag in ("properties", "system-out", "system-err") for child in element):
        return None
    case: TestCase = TestCase.fromelem(element)  # type: ignore[no-untyped-call]
    ranked = [result for kind in (Failure, Error, Skipped) for result in case.result if isinstance(result, kind)]
    return next(iter(ranked), None)


def _property(element: Element) -> str | None:
    from ci.evidence import PROPERTY

    values = [node.get("value") or node.text or "" for node in element.iter("property") if node.get("name") == PROPERTY]
    return values[-1] if values else None


def _seconds(text: str | None) -> float:
    try:
        seconds = float((text or "0").replace(",", ""))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 10**7 else 0.0


def _tail(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[-limit + 1 :]
