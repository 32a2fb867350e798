"""What the pages share: templates that escape, the style sheet, the script, and the policy that allows only these."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ci.report.escape import clean

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("page")


@dataclass(frozen=True)
class PageParts:
    """Style sheet and script as they stand in a page, and its Content-Security-Policy, which names their digests."""

    style: Markup
    script: Markup
    policy: str


@cache
def load_parts(*, script: bool = True) -> PageParts:
    """Read the style sheet and the script, and make their policy.

    https://www.w3.org/TR/CSP3/#grammardef-hash-source
    """
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    code = (TEMPLATES / "page.js").read_text(encoding="utf-8") if script else ""
    allowed = f" script-src '{_digest(code)}';" if script else ""
    policy = f"default-src 'none'; style-src '{_digest(style)}';{allowed} base-uri 'none'; form-action 'none'"
    return PageParts(mark_safe(style), mark_safe(code), policy)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def mark_safe(text: str) -> Markup:
    """Mark our own style sheet, script, or a chart whose texts are escaped, as safe."""
    return Markup(text)  # noqa: S704 -- see above


@cache
def make_environment() -> Environment:
    """Make the templates' environment: every text is cleaned, and then escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
