import pytest

from ci.errors import RequestError
from ci.terminal import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("500MB", 500_000_000), ("1.5 TB", 1_500_000_000_000), ("2g", 2 * 10**9), ("7GiB", 7 * 2**30)],
)
def test_parse_size(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1XB", "1e3"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(RequestError, match="expected a number with a unit"):
        parse_size(text)


def test_size_for_people() -> None:
    assert [format_size(n) for n in (0, 999, 1500, 6_329_376_768, 2 * 10**13)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "6.3 GB",
        "20.00 TB",
    ]
