"""Addresses that a report may link to: the platform's own, never one that a test wrote."""

from __future__ import annotations

import re

_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~/#?=&%-]*)?")


def is_link(url: str) -> bool:
    """Whether `url` is a plain https address that needs no escaping in Markdown or HTML."""
    return bool(_URL.fullmatch(url))


def link(label: str, url: str) -> str:
    """A Markdown link, nothing where `url` is no plain https address. `label` is Markdown already."""
    return f"[{label}]({url})" if is_link(url) else ""
