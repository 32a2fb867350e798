from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.report.evidence_parser import parse_evidence
from ci.report.junit import JunitCase, read_junit
from ci.report.limits import InputLimits
from tests.ci.report.samples import document

if TYPE_CHECKING:
    from pathlib import Path

CASE = '<testcase name="test_a[x]" time="1.5"/>'


def test_outcomes_as_pytest_writes_them() -> None:
    junit = read_junit(
        document(
            '<testcase name="a" time="0.25"/>'
            '<testcase name="b"><failure message="AssertionError: no">E  no</failure></testcase>'
            '<testcase name="c"><error message="failed on setup with &quot;x&quot;">trace</error></testcase>'
            '<testcase name="d"><skipped type="pytest.skip" message="why">a.py:1: why</skipped></testcase>'
            '<testcase name="e"><skipped type="pytest.xfail" message=""/></testcase>'
            '<testcase name="f"><skipped message="s"/><failure message="f"/></testcase>'
        )
    )
    assert junit.problem is None
    assert [(case.name, case.outcome) for case in junit.cases] == [
        *(("a", "passed"), ("b", "failed"), ("c", "error"), ("d", "skipped"), ("e", "skipped"), ("f", "failed")),
    ]
    assert junit.cases[0].seconds == 0.25
    assert (junit.cases[1].message, junit.cases[1].detail) == ("AssertionError: no", "E  no")


def test_a_case_without_a_name_from_an_interrupted_pytest_is_not_a_test() -> None:
    junit = read_junit(document(CASE + "<testcase time='0.1'/><testcase name=''/>"))
    assert [case.name for case in junit.cases] == ["test_a[x]"]


def test_evidence_is_the_property_of_its_name_and_a_second_one_is_no_json() -> None:
    """The suite records one. Whoever adds another must not choose which of them counts."""
    ours = "<property name='hub-tests' value='{&quot;a&quot;: 1}'/>"
    one = f"<properties><property name='other' value='1'/>{ours}</properties>"
    assert read_junit(document(f'<testcase name="a">{one}</testcase>')).cases[0].evidence == '{"a": 1}'
    assert read_junit(document(CASE)).cases[0].evidence is None
    two = read_junit(document(f'<testcase name="a"><properties>{ours}{ours}</properties></testcase>')).cases[0]
    with pytest.raises(RequestError, match="evidence: "):
        parse_evidence(two.evidence or "")


@pytest.mark.parametrize("end", [1, 20, 60, 200])
def test_a_truncated_file_keeps_what_was_complete(end: int) -> None:
    whole = document(CASE * 8)
    junit = read_junit(whole[:-end])
    assert junit.problem is not None
    assert "cut off or not valid XML" in junit.problem
    assert 1 <= len(junit.cases) <= 8
    assert all(case == junit.cases[0] for case in junit.cases)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cut off or not valid XML"),
        (b"\x00\x01\x02", "cut off or not valid XML"),
        (b"not xml", "cut off or not valid XML"),
        (b"<html></html>", "no tests"),
        (b"<testsuites/>", "no tests"),
        (document(""), "no tests"),
        (document(CASE + '<testcase name="&#0;"/>'), "cut off or not valid XML"),
        (document(CASE + '<testcase name="\x1b"/>'), "cut off or not valid XML"),
        (document(CASE).decode().encode("utf-16"), "cut off or not valid XML"),
        ("<!DOCTYPE a><a/>".encode("utf-16"), "cut off or not valid XML"),
        (document(CASE + "\xff").decode().encode("latin-1"), "cut off or not valid XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        (b"<a>" * 100_000, "nested deeper"),
        (document("<a " + " ".join(f'a{n}="1"' for n in range(100)) + "/>"), "too many attributes"),
    ],
)
def test_hostile_content_is_a_problem_and_never_an_exception(content: bytes, problem: str) -> None:
    junit = read_junit(content)
    assert junit.problem is not None
    assert problem in junit.problem


def test_an_entity_bomb_is_refused_before_it_is_expanded() -> None:
    entities = "".join(f'<!ENTITY l{n} "{"&l" + str(n - 1) + ";" if n else "ha"}{"x" * 10}">' for n in range(50))
    junit = read_junit(f"<!DOCTYPE l [{entities}]><testsuites>&l49;</testsuites>".encode())
    assert junit.problem == "result file contains a document type or entities"


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (InputLimits(xml_bytes=100), "larger than 0 MiB"),
        (InputLimits(cases=3), "more than 3 tests"),
        (InputLimits(elements=3), "more than 3 elements"),
        (InputLimits(depth=1), "nested deeper than 1"),
    ],
)
def test_limits(limits: InputLimits, problem: str) -> None:
    junit = read_junit(
        document('<testcase name="a"><failure message="x">' + "y" * 60 + "</failure></testcase>" * 1 + CASE * 9), limits
    )
    assert problem in (junit.problem or "")


def test_too_many_cases_keep_the_first_ones() -> None:
    assert len(read_junit(document(CASE * 9), InputLimits(cases=3)).cases) == 3


def test_texts_are_cleaned_and_clipped() -> None:
    token = "hf_abcdefghijklmnopqrstuvwxyz012345"
    failure = f'<failure message="{token} #x1B[31mred \u202e{"m" * 5000}">{"d" * 50_000}the end {token}</failure>'
    case = read_junit(document(f'<testcase name="  a\u200b {"n" * 500}">{failure}</testcase>')).cases[0]
    assert case.message.startswith("[redacted] red mmm")
    assert len(case.message) == InputLimits().message_chars
    assert case.detail.endswith("the end [redacted]")
    assert len(case.detail) == InputLimits().detail_chars
    assert case.name.startswith("a nnn")
    assert len(case.name) == InputLimits().name_chars


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.5", 1.5), ("1,234.5", 1234.5), ("nan", 0), ("-1", 0), ("1e99", 0), ("x", 0)]
)
def test_impossible_times_count_as_zero(text: str, seconds: float) -> None:
    assert read_junit(document(f'<testcase name="a" time="{text}"/>')).cases == (JunitCase("a", "passed", seconds),)


def test_files(tmp_path: Path) -> None:
    missing = read_junit(tmp_path / "junit.xml")
    assert (missing.problem, missing.missing) == ("no result file", True)
    (tmp_path / "real.xml").write_bytes(document(CASE))
    assert len(read_junit(tmp_path / "real.xml").cases) == 1
    (tmp_path / "link.xml").symlink_to(tmp_path / "real.xml")
    assert read_junit(tmp_path / "link.xml").problem == "result file is a link or not a plain file"
    assert read_junit(tmp_path).problem == "result file is a link or not a plain file"
    assert read_junit(tmp_path / "real.xml", InputLimits(xml_bytes=10)).problem == "result file larger than 0 MiB"


def test_a_secret_is_not_cut_in_half_before_it_is_known() -> None:
    secret = "hf_" + "a1" * 30
    for hidden in range(63_930, 64_000, 3):
        text = secret + "\n" + "\u200b" * hidden + "end"
        detail = read_junit(document(f'<testcase name="a"><failure>{text}</failure></testcase>')).cases[0].detail
        assert "a1a1" not in detail
        assert detail.endswith("end")
