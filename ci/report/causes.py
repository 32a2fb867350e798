"""Failures with the same cause, across tests and models, shown once. Pure."""

from __future__ import annotations

import hashlib
import re

_NOISE = (
    (re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{12,}\b"), "#"),
    (re.compile(r"(?:[\w.+-]*/)+([\w.+-]+)"), r"\1"),
    (re.compile(r"[-+]?\b\d[\d_,]*(?:\.\d+)?(?:e[-+]?\d+)?\b", re.IGNORECASE), "#"),
    (re.compile(r"#(?:[\s,x]+#)+"), "#"),
)


def fingerprint(failure_class: str, sentence: str, *, names: tuple[str, ...] = ()) -> str:
    """A stable key of a failure: its class and what it says, without numbers, paths, addresses and model names.

    The same between runs and between models, so it groups ("3 models, 1 cause") and it tells a failure that is
    already on main from a different one.
    """
    plain = sentence
    for name in sorted(filter(None, names), key=len, reverse=True):
        plain = plain.replace(name, "<model>")
    for pattern, blank in _NOISE:
        plain = pattern.sub(blank, plain)
    plain = " ".join(plain.lower().split())[:400]
    return f"{failure_class}-{hashlib.sha256(plain.encode('utf-8', 'replace')).hexdigest()[:12]}"
