"""The page as text: complete, and without any request. `test_html_page_in_browser.py` draws it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from ci.report.html_page import MODELS_WITH_CHARTS, render_html
from ci.report.page_parts import load_parts
from tests.ci.report import samples
from tests.ci.report.page import Page
from tests.ci.report.samples import HOSTILE, MODELS, RUN_URL, make_results, mismatch, plan_of

RUNS = ("passing", "failing", "mixed", "crashed", "neutral", "hostile")


@pytest.mark.parametrize("name", RUNS)
def test_the_page_is_complete_and_loads_nothing(name: str) -> None:
    page = Page(render_html(getattr(samples, name)()))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not names & {"img", "iframe", "link", "object", "embed", "base", "form", "image", "use", "a:href"}
    for tag, attributes in page.tags:
        assert not {key for key in attributes if key.startswith("on") or key in ("style", "src", "srcset")}
        if tag == "a":
            target = attributes["href"] or ""
            assert target.startswith((RUN_URL, "#model-", "#cause-"))


def test_the_policy_allows_the_style_sheet_and_the_script_and_nothing_else() -> None:
    html = render_html(samples.passing())
    style = html.split("<style>")[1].split("</style>")[0]
    script = html.split("<script>")[1].split("</script>")[0]
    css, code = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)
    )
    policy = f"default-src 'none'; style-src {css}; script-src {code}; base-uri 'none'; form-action 'none'"
    assert policy in html.replace("&#39;", "'")
    assert "@import" not in style
    assert "url(" not in style


@pytest.mark.parametrize("name", RUNS)
def test_every_column_has_a_title(name: str) -> None:
    assert not re.findall(r"<th[^>]*>\s*</th>", render_html(getattr(samples, name)()))


PALETTE = re.compile(r"--([\w-]+): (#[0-9a-f]{6});")
INKS, GROUNDS = ("ink", "soft", "good", "bad", "warn", "accent"), ("page", "card", "tint")


def compute_luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(scheme: str) -> None:
    light, _, dark = load_parts().style.partition("@media (prefers-color-scheme: dark)")
    colours = dict(PALETTE.findall(light if scheme == "light" else dark.partition("* {")[0]))
    pairs = [(ink, ground) for ink in INKS for ground in (*GROUNDS, "good-tint", "bad-tint", "warn-tint")]
    for ink, ground in pairs:
        low, high = sorted(compute_luminance(colours[name]) for name in (ink, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {ground}"
    faint = re.findall(r"([^{}\n]+) \{[^}]*opacity", load_parts().style)
    assert faint == [".growth"], "a line; text would lose its contrast"


def test_hostile_text_stays_text() -> None:
    page = Page(render_html(samples.hostile()))
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "hf_abcdef" not in page.text
    assert "\u202e" not in page.text
    assert HOSTILE not in page.text


def test_the_header_says_when_where_and_with_what() -> None:
    text = " ".join(Page(render_html(samples.passing(), "2026-11-27T01:02:03+00:00")).text.split())
    head = text.partition("Models")[0]
    for fact in ("date 2026-11-27 01:02 UTC", "reference 0.1.0 1a2b3c4d5e6f", "device cuda", "torch 2.13.0"):
        assert fact in head
    assert "date" not in " ".join(Page(render_html(samples.passing())).text.split()).partition("Models")[0]


def test_charts_for_the_first_models_and_tests_for_every_failing_one() -> None:
    count = MODELS_WITH_CHARTS + 3
    models = {f"m{n:02d}": replace(MODELS["smollm2"], name=f"m{n:02d}") for n in range(count)}
    failing = f"test_conversion[m{count - 1:02d}]"
    html = render_html(make_results(plan_of("*", models=models), {failing: mismatch()}))
    assert f'id="model-{count - 1}"' in html
    assert f'id="model-{count - 2}"' not in html
    assert f"m{count - 2:02d}" in html
    assert "3 models have no charts" in html


def test_the_page_cleans_every_text_of_a_record() -> None:
    """Records are cleaned when results are read; a report.json from elsewhere may not be."""
    dirty = "a\u202eb \x1b[31m hf_abcdefghijklmnopqrstuvwxyz012345"
    page = render_html(replace(samples.passing(), notes=(dirty,)))
    assert "hf_abc" not in page
    assert not {"\u202e", "\x1b"} & set(page)
