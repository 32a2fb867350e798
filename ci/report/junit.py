"""Parse JUnit XML that can be an attack: keep complete cases, name what is wrong.

The file was written beside the code of a pull request: it may be forged, endless, nested too deep, cut off, or not XML
at all. It is parsed as a stream. Any document type is refused, so no entity is ever expanded.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from xml.etree import ElementTree as ET

from junitparser import Error, Failure, Skipped, TestCase

from ci.evidence import PROPERTY
from ci.report.escape import clean, clean_start, clip, one_line
from ci.report.limits import INPUT, InputLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RawOutcome = Literal["passed", "failed", "error", "skipped"]
_CHUNK = 2**16
_SECRET_CHARS = 1024
_OUTCOMES: dict[type, RawOutcome] = {Failure: "failed", Error: "error", Skipped: "skipped"}


@dataclass(frozen=True, slots=True)
class JunitCase:
    """One `<testcase>`: its name as pytest wrote it, outcome, seconds, and cleaned text.

    `evidence` is the raw value of the property `hub-tests`, None without one.
    """

    name: str
    outcome: RawOutcome
    seconds: float = 0.0
    message: str = ""
    detail: str = ""
    evidence: str | None = None


@dataclass(frozen=True)
class JunitFile:
    """The complete cases of one file. `problem` says in one line why the file may not be complete."""

    cases: tuple[JunitCase, ...] = ()
    problem: str | None = None
    missing: bool = False


def read_junit(source: bytes | Path, limits: InputLimits = INPUT) -> JunitFile:
    """Read the cases of a JUnit file or of its bytes. Content never raises: see `JunitFile.problem`."""
    if not isinstance(source, bytes):
        content = _read_file(source, limits)
        return content if isinstance(content, JunitFile) else read_junit(content, limits)
    if len(source) > limits.xml_bytes:
        return JunitFile(problem=f"result file larger than {limits.xml_bytes // 2**20} MiB")
    cases: list[JunitCase] = []
    try:
        parsed = (_parse_case(element, limits) for element in _iterate_testcases(_decode(source), limits))
        cases.extend(case for case in parsed if case.name)  # an interrupted pytest leaves one without a name
    except _RefusedError as refused:
        return JunitFile(tuple(cases), str(refused))
    except (ET.ParseError, ValueError) as error:
        return JunitFile(tuple(cases), f"result file is cut off or not valid XML ({one_line(str(error), 100)})")
    return JunitFile(tuple(cases), None if cases else "result file contains no tests")


def _read_file(path: Path, limits: InputLimits) -> bytes | JunitFile:
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            return JunitFile(problem="result file is a link or not a plain file", missing=True)
        if facts.st_size > limits.xml_bytes:
            return JunitFile(problem=f"result file larger than {limits.xml_bytes // 2**20} MiB")
        return path.read_bytes()
    except OSError:
        return JunitFile(problem="no result file", missing=True)


class _RefusedError(Exception):
    """The content is over a limit or contains a document type."""


def _decode(source: bytes) -> str:
    """Decode UTF-8 up to the first invalid byte, and refuse a document type.

    No other encoding is accepted, because it could hide a document type.
    """
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = source[: error.start].decode("utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise _RefusedError("result file contains a document type or entities")
    return text


def _iterate_testcases(text: str, limits: InputLimits) -> Iterator[ET.Element]:
    """Yield every complete `<testcase>` as soon as it is read.

    Text after an error is never parsed. A piece in which no element begins or ends is followed by a larger one: expat
    before 2.6 reads an unfinished tag or comment again with every piece (https://github.com/libexpat/libexpat/pull/789).
    """
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    depth = count = elements = at = 0
    size, ended = _CHUNK, False
    while not ended:
        ended = at >= len(text)
        parser.close() if ended else parser.feed(text[at : at + size])
        at, size = at + size, size * 2
        for event, element in cast("Iterator[tuple[str, ET.Element]]", parser.read_events()):
            size = _CHUNK
            if event == "start":
                depth += 1
                elements += 1
                if elements > limits.elements:
                    raise _RefusedError(f"result file contains more than {limits.elements} elements")
                _check_limits(element, depth, limits)
                continue
            depth -= 1
            if element.tag == "testcase":
                count += 1
                if count > limits.cases:
                    raise _RefusedError(f"result file contains more than {limits.cases} tests")
                yield element
                element.clear()


def _check_limits(element: ET.Element, depth: int, limits: InputLimits) -> None:
    if depth > limits.depth or len(element.attrib) > limits.attributes:
        raise _RefusedError(f"result file nested deeper than {limits.depth} or with too many attributes")


def _parse_case(element: ET.Element, limits: InputLimits) -> JunitCase:
    shown = _find_worst_result(element)
    return JunitCase(
        name=one_line(element.get("name") or "", limits.name_chars),
        outcome=_OUTCOMES[type(shown)] if shown else "passed",
        seconds=_parse_seconds(element.get("time")),
        message=clip(clean_start(shown.message or "", limits.message_chars * 2), limits.message_chars) if shown else "",
        detail=_clip_start(clean(_take_last_lines(shown.text or "", limits.detail_chars * 4)), limits.detail_chars)
        if shown
        else "",
        evidence=_find_evidence(element),
    )


def _find_worst_result(element: ET.Element) -> Failure | Error | Skipped | None:
    """Return why the case did not pass; None for a pass.

    junitparser is slow, so it parses only cases that did not pass.
    """
    if all(child.tag in ("properties", "system-out", "system-err") for child in element):
        return None
    case: TestCase = TestCase.fromelem(element)  # type: ignore[no-untyped-call]
    ranked = [result for kind in (Failure, Error, Skipped) for result in case.result if isinstance(result, kind)]
    return next(iter(ranked), None)


def _find_evidence(element: ET.Element) -> str | None:
    """Return the evidence as text.

    The suite records one. Two are joined, which is no JSON: whoever added one must not choose which of them counts.
    """
    values = [node.get("value") or node.text or "" for node in element.iter("property") if node.get("name") == PROPERTY]
    return "\n".join(values) if values else None


def _parse_seconds(text: str | None) -> float:
    try:
        seconds = float((text or "0").replace(",", ""))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 10**7 else 0.0


def _clip_start(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[-limit + 1 :]


def _take_last_lines(text: str, limit: int) -> str:
    """Return about the last `limit` characters without their first line.

    That line may be the end of a secret, which `clean` would not recognize.
    """
    if len(text) <= limit:
        return text
    first, newline, rest = text[-limit:].partition("\n")
    return rest if newline else first[_SECRET_CHARS:]
