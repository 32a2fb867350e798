"""JUnit XML as hostile input: what was complete is kept, what is wrong is named, nothing is believed.

The file was written beside a pull request's code: it may be forged, endless, nested without end, cut off in the
middle, or not XML at all. It is parsed as a stream, any document type is refused, so no entity is ever expanded.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from xml.etree import ElementTree as ET

from junitparser import Error, Failure, Skipped, TestCase

from ci.evidence import PROPERTY
from ci.report.escape import clean, clip, one_line
from ci.report.limits import INPUT, InputLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RawOutcome = Literal["passed", "failed", "error", "skipped"]
_CHUNK = 2**16
_SECRET_CHARS = 1024
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
    cases: list[Case] = []
    try:
        found = (_case(element, limits) for element in _elements(_text(source), limits))
        cases.extend(case for case in found if case.name)  # an interrupted pytest leaves one without a name
    except _RefusedError as refused:
        return Junit(tuple(cases), str(refused))
    except (ET.ParseError, ValueError) as error:
        return Junit(tuple(cases), f"result file is cut off or not valid XML ({one_line(str(error), 100)})")
    return Junit(tuple(cases), None if cases else "result file holds no tests")


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


def _text(source: bytes) -> str:
    """UTF-8 up to the first byte that is none, without a document type: another encoding could hide one."""
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = source[: error.start].decode("utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise _RefusedError("result file brings a document type or entities")
    return text


def _elements(text: str, limits: InputLimits) -> Iterator[ET.Element]:
    """Every complete `<testcase>`, as soon as it has been read; what follows an error is never looked at."""
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    depth = count = 0
    for at in range(0, len(text) + _CHUNK, _CHUNK):  # the last round is empty and closes
        parser.feed(text[at : at + _CHUNK]) if at < len(text) else parser.close()
        for event, element in cast("Iterator[tuple[str, ET.Element]]", parser.read_events()):
            if event == "start":
                depth += 1
                _check(element, depth, limits)
                continue
            depth -= 1
            if element.tag == "testcase":
                count += 1
                if count > limits.cases:
                    raise _RefusedError(f"result file holds more than {limits.cases} tests")
                yield element
                element.clear()


def _check(element: ET.Element, depth: int, limits: InputLimits) -> None:
    if depth > limits.depth or len(element.attrib) > limits.attributes:
        raise _RefusedError(f"result file nested deeper than {limits.depth} or with too many attributes")


def _case(element: ET.Element, limits: InputLimits) -> Case:
    shown = _worst_result(element)
    return Case(
        name=one_line(element.get("name") or "", limits.name_chars),
        outcome=_OUTCOMES[type(shown)] if shown else "passed",
        seconds=_seconds(element.get("time")),
        message=clip(clean((shown.message or "")[: limits.message_chars * 2]), limits.message_chars) if shown else "",
        detail=_tail(clean(_last_lines(shown.text or "", limits.detail_chars * 4)), limits.detail_chars)
        if shown
        else "",
        evidence=_property(element),
    )


def _worst_result(element: ET.Element) -> Failure | Error | Skipped | None:
    """What makes the case not a pass. Only then is junitparser asked: passes are many, and it takes its time."""
    if all(child.tag in ("properties", "system-out", "system-err") for child in element):
        return None
    case: TestCase = TestCase.fromelem(element)  # type: ignore[no-untyped-call]
    ranked = [result for kind in (Failure, Error, Skipped) for result in case.result if isinstance(result, kind)]
    return next(iter(ranked), None)


def _property(element: ET.Element) -> str | None:
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


def _last_lines(text: str, limit: int) -> str:
    """About the last `limit` characters, without the first line of them: half a secret would not be known as one."""
    if len(text) <= limit:
        return text
    first, newline, rest = text[-limit:].partition("\n")
    return rest if newline else first[_SECRET_CHARS:]
