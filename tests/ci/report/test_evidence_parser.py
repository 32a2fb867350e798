from __future__ import annotations

import json

import pytest

from ci.errors import RequestError
from ci.evidence import Evidence, to_property
from ci.report.evidence_parser import parse_evidence
from ci.report.limits import InputLimits
from tests.ci.report.samples import evidence_of, wrong_forward


@pytest.mark.parametrize("changes", [{}, wrong_forward(moe=True), {"notes": ('a "quoted" note', "é")}])
def test_the_evidence_of_the_suite_is_read_back(changes: dict[str, object]) -> None:
    evidence = evidence_of("test_forward_equivalence[mixtral]", "mixtral", **changes)
    assert parse_evidence(to_property(evidence)[1]) == evidence


def test_infinite_errors_come_back() -> None:
    known = wrong_forward()
    known["figures"] = {"float32.used": float("inf")}
    text = to_property(evidence_of("test_forward_equivalence[mixtral]", "mixtral", **known))[1]
    assert parse_evidence(text).figures["float32.used"] == float("inf")


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("hf_abcdefghijklmnopqrstuvwxyz012345", "[redacted]"),
        ("\u202eevil\x1b[31m", "evil"),
        ("\x7fdel", "del"),
        ("x" * 5000, "x" * 1999 + "…"),
    ],
)
def test_texts_are_cleaned(dirty: str, clean: str) -> None:
    for text in (json.dumps(_plain(dirty)), json.dumps(_plain(dirty), ensure_ascii=False)):
        evidence = parse_evidence(text)
        assert evidence.diagnosis == clean
        assert list(evidence.libraries.values()) == [clean]


def test_an_escaped_secret_does_not_slip_through() -> None:
    text = json.dumps(_plain("X")).replace('"X"', '"hf_\\u0061bcdefghijklmnopqrstuvwxyz012345"')
    assert parse_evidence(text).diagnosis == "[redacted]"


GOOD = {"model": "m", "step": "test_conversion"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "1", '"x"', "{}", '{"model": 1}', "[" * 100_000, '{"model": ' * 50_000),
        json.dumps({**GOOD, "step": "test_of_mine"}),
        json.dumps({**GOOD, "unknown": 1}),
        json.dumps({**GOOD, "failure_class": "invented"}),
        json.dumps({**GOOD, "layers": "many"}),
        json.dumps({**GOOD, "layers": 0}).replace("0", "9" * 10_000),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_evidence(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_limits() -> None:
    text = to_property(Evidence("m", "test_conversion", notes=tuple(f"note {n}" for n in range(100))))[1]
    with pytest.raises(RequestError, match="longer than 100 characters"):
        parse_evidence(text, InputLimits(evidence_chars=100))
    measured = to_property(evidence_of("test_forward_equivalence[mixtral]", "mixtral"))[1]
    with pytest.raises(RequestError, match="more than 10 measures"):
        parse_evidence(measured, InputLimits(evidence_items=10))
    with pytest.raises(RequestError, match="too many values"):
        parse_evidence(measured.replace('"model"', '"mod\\u0065l"'), InputLimits(evidence_items=10))


def _plain(text: str) -> dict[str, object]:
    return {"model": "m", "step": "test_conversion", "diagnosis": text, "libraries": {"torch": text}}
