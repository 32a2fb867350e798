import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.evidence import Evidence, Measure, to_property
from ci.records import STRICT, read_json, to_json


@dataclass(frozen=True)
class Point:
    __pydantic_config__: ClassVar[Any] = STRICT

    x: int
    tags: tuple[str, ...] = ()
    value: float = 0.0


def test_a_record_survives_json() -> None:
    point = Point(1, ("a", "b"), 0.5)
    assert read_json(Point, to_json(point), what="point") == point


def test_non_finite_numbers_are_valid_json_and_come_back() -> None:
    text = to_json(Point(1, value=float("-inf")))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read_json(Point, text, what="point").value == float("-inf")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"x": "one"}', "point: x: Input should be a valid integer"),
        ('{"x": 1, "y": 2}', "point: y: Unexpected keyword argument"),
        ('{"y": [3]}', "point: x: Field required"),
        ("{", "point: value: Invalid JSON"),
        ("[]", "point: "),
    ],
)
def test_what_is_no_record_is_one_line(text: str, says: str) -> None:
    with pytest.raises(InfrastructureError) as caught:
        read_json(Point, text, what="point", error=InfrastructureError)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_evidence_survives_its_property() -> None:
    worst = Measure("decoder.1", "float32", (2, 8, 4), float("nan"), 1e-5, worst_index=(0, 1, 2), expected=1.0)
    evidence = Evidence("mixtral", "test_conversion", worst=worst, ran={"moe": "looped"})
    name, text = to_property(evidence)
    back = read_json(Evidence, text, what="evidence")
    assert name == "hub-tests"
    assert back.worst is not None
    assert back.worst.error != back.worst.error
    assert back.ran == {"moe": "looped"}


def test_hostile_evidence_is_refused() -> None:
    with pytest.raises(RequestError):
        read_json(Evidence, '{"model": "m", "step": "test_everything"}', what="evidence")
