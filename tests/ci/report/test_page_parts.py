"""The parts of a page: the policy names the digests of exactly what stands in it."""

from __future__ import annotations

import base64
import hashlib

from ci.report.page_parts import load_parts


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_policy_allows_the_parts_and_nothing_else() -> None:
    parts = load_parts()
    style, script = digest(parts.style), digest(parts.script)
    allowed = f"default-src 'none'; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
    assert parts.policy == allowed
    assert "script-src" not in load_parts(script=False).policy


def test_the_script_can_reach_nothing() -> None:
    script = load_parts().script
    for word in ("fetch", "XMLHttp", "import(", "innerHTML", "eval", "document.write", "localStorage", "</script"):
        assert word not in script, word
