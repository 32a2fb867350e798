"""Sizes, durations, moments and shares of a limit as people write and read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from ci.errors import RequestError

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Return the bytes of `500MB`, `50G`, `1.5TB` (powers of 1000) or `7GiB` (powers of 1024).

    Raises RequestError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise RequestError(f"size '{text}': expected a number with a unit, like 500MB or 50GB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _POWERS[match[2].upper()])


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `30m`, `12h` or `14d`. Raises RequestError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])\s*", text, re.IGNORECASE)
    if not match:
        raise RequestError(f"duration '{text}': expected a number with a unit, like 30m, 12h or 14d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2].lower()]


def format_size(count: float) -> str:
    """Format a number of bytes in decimal units, as disks and the Hub use them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def format_age(seconds: float) -> str:
    """Format a duration in its largest unit: `3.0 d`, `5.0 h`, `2 min`, `7 s`."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} d"
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def format_now() -> str:
    """Format this moment in ISO 8601, UTC, to the second: `2026-11-27T08:30:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def format_share(used: float | None) -> str:
    """Format error / limit: `10 %`, from ten times the limit on `12 x`.

    It is the one figure of a comparison, the same in titles, tables, pages and terminals.
    """
    if used is None:
        return "-"
    if not math.isfinite(used):
        return "∞"
    if used >= 10:
        return f"{used:,.0f} x" if used < 1e6 else f"{used:.1e} x"
    return f"{used * 100:.0f} %" if used >= 0.01 else "<1 %"


def format_share_of_limit(used: float) -> str:
    """Format error / limit as part of a sentence: `10 % of the limit`, `4,000 x the limit`."""
    share = format_share(used)
    return f"{share} of the limit" if share.endswith("%") else f"{share.removesuffix(' x')} x the limit"
