import math

import pytest

from ci.evidence import Measure


def measure(error: float, limit: float, token_error: float = 0.0, token_limit: float | None = None) -> Measure:
    return Measure("logits", "float32", (2, 3), error, limit, token_error=token_error, token_limit=token_limit)


@pytest.mark.parametrize(
    ("one", "used"),
    [
        (measure(1.0, 2.0), 0.5),
        (measure(1.0, 2.0, 3.0, 4.0), 0.75),
        (measure(1.0, 2.0, 3.0), 0.5),
        (measure(1.0, 0.0), math.inf),
        (measure(0.0, 0.0), 0.0),
        (measure(0.5, 1.0, 0.0, 0.0), 0.5),
    ],
)
def test_used_is_the_larger_share(one: Measure, used: float) -> None:
    assert one.used == used


@pytest.mark.parametrize(
    "one",
    [
        measure(math.nan, 2.0),
        measure(0.0, math.nan),
        measure(math.nan, 2.0, 1.0, 4.0),
        measure(0.0, 2.0, math.nan, 4.0),
        measure(0.0, 2.0, math.nan),
        measure(0.0, 2.0, 0.0, math.nan),
        measure(math.inf, math.inf),
        measure(1.0, math.inf),
        measure(-1.0, 2.0),
        measure(1.0, -2.0),
        measure(1.0, 2.0, 1.0, -1.0),
        measure(1.0, 2.0, 1.0, 0.0),
    ],
)
def test_what_is_no_number_has_used_more_than_any_limit(one: Measure) -> None:
    assert one.used == math.inf


@pytest.mark.parametrize(
    "one", [measure(1.0, 2.0), measure(1.0, 2.0, 3.0, 4.0), measure(8.0, 2.0, 3.0, 4.0), measure(1.0, 2.0, 8.0, 2.0)]
)
def test_the_shown_error_divided_by_the_shown_limit_is_the_shown_share(one: Measure) -> None:
    error, limit = one.decisive
    assert error / limit == one.used
    assert one.decided_by_token == (one.decisive == (one.token_error, one.token_limit))
