"""The page as text: complete, and without any request. `test_html_page_in_browser.py` draws it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ci.report.html_page import MODELS_WITH_CHARTS, render_html
from tests.ci.report import samples
from tests.ci.report.samples import HOSTILE, MODELS, RUN_URL, Fault, make_results, mismatch, plan_of

RUNS = ("passing", "failing", "mixed", "crashed", "neutral", "hostile")
VOID = {"meta", "br", "circle", "path", "polyline", "input"}


class Page(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open[-1:] in (["style"], ["script"]) else f" {data} "


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


def test_hostile_text_stays_text() -> None:
    page = Page(render_html(samples.hostile()))
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "hf_abcdef" not in page.text
    assert "\u202e" not in page.text
    assert HOSTILE not in page.text


def test_the_page_shows_cause_worst_tensor_and_command() -> None:
    text = " ".join(Page(render_html(samples.failing())).text.split())
    assert "Failed: 3 of 3 models, 1 cause" in text
    assert "decoder.1.mixer.query float32 0, 37, 112 of 2 x 64 x 576 0.123457 0.139457 0.016 4e-06 4,000 x" in text
    assert "Reproduce: hub-tests run smollm2 --layers 2 --subject reference --device cuda" in text
    assert "newly failing, last good 028877665544" in text


def test_variants_that_coincide_share_a_chart_for_each_dtype() -> None:
    html = render_html(make_results(plan_of("mixtral")))
    captions = re.findall(r"<figcaption>([^,<]*), (\w+): \d+ tensors, all within the limit([^<]*)", html)
    tests = ["forward_equivalence", "moe_implementation looped", "moe_implementation dropless"]
    tests += [f"implementation attention-{name}" for name in ("eager", "sdpa", "blockwise")]
    alike, both = "; these 6 coincide", " and ".join(tests)
    assert captions == [(both, "float32", alike), (both, "bfloat16", alike), ("hub_model_conversion", "float32", "")]


def test_variants_that_do_not_coincide_have_a_chart_each_on_one_scale() -> None:
    plan = plan_of("mixtral")
    html = render_html(make_results(plan, {"test_moe_implementation[dropless-mixtral]": mismatch(moe=True)}))
    captions = re.findall(r"<figcaption>([^<]*), float32: 25 tensors, ([^<]*)", html)
    assert captions[0] == ("moe_implementation dropless", "12 above the limit")
    assert captions[1][0].startswith("forward_equivalence and moe_implementation looped and ")
    axes = [re.findall(r'text-anchor="end">(1e-?\d+)<', svg) for svg in html.split("<figure>")[1:]]
    floats = [names for names in axes if names][:1] + [names for names in axes if names][2:3]
    assert floats[0] == floats[1], "two charts of one dtype can be compared"


def test_the_header_says_when_where_and_with_what() -> None:
    text = " ".join(Page(render_html(samples.passing(), "2026-11-27T01:02:03+00:00")).text.split())
    head = text.partition("Models")[0]
    for fact in ("date 2026-11-27 01:02 UTC", "reference 0.1.0 1a2b3c4d5e6f", "device cuda", "torch 2.13.0"):
        assert fact in head
    assert "date" not in " ".join(Page(render_html(samples.passing())).text.split()).partition("Models")[0]


def test_a_failure_s_sentence_is_said_once() -> None:
    page = Page(render_html(samples.failing()))
    text = " ".join(page.text.partition("output of")[0].split()) + " ".join(page.text.partition("Models")[2].split())
    assert text.count("the rotary embedding is wrong") == 1
    assert ("a", {"href": "#cause-1"}) in page.tags


def test_tensors_and_axes_are_named_without_hovering() -> None:
    html = render_html(samples.failing())
    shown = re.sub(r"<title>.*?</title>|<head>.*?</head>", "", html, flags=re.DOTALL)
    figure = shown.split("<figure>")[1]
    assert ">error</text>" in figure
    assert ">tensor, by layer</text>" in figure
    assert "decoder.1.mixer.query 4,000 x the limit</text>" in figure
    assert '<code>decoder.1.mixer.query</code></td><td class="n">4,000 x</td>' in figure


def test_red_charts_come_first_and_say_how_many_tensors_are_above_the_limit() -> None:
    plan = plan_of("mixtral")
    html = render_html(make_results(plan, {"test_moe_implementation[dropless-mixtral]": mismatch(moe=True)}))
    first = re.search(r"<figcaption>(.*?)</figcaption>", html)
    assert first is not None
    assert first[1] == "moe_implementation dropless, float32: 25 tensors, 12 above the limit"


def test_routing_flips_are_listed() -> None:
    plan = plan_of("mixtral")
    page = Page(render_html(make_results(plan, {"test_moe_implementation[dropless-mixtral]": mismatch(moe=True)})))
    assert "Routing" in page.text
    rows = " ".join(page.text.split())
    assert "1 random float32 128 2 3 0.31" in rows
    assert rows.index("1 random float32 128 2 3 0.31") < rows.index("0 random float32 128 1 0")
    assert "2 of 2 comparisons (one for each layer, input and dtype) have a routing flip" in rows


def test_layers_without_a_flip_are_counted_and_not_listed() -> None:
    calm = replace(samples.routing()[0], small_flips=0, smallest_margin=0.125)
    told = {"routing": tuple(replace(calm, layer=layer) for layer in range(5))}
    html = render_html(
        make_results(plan_of("mixtral"), {"test_forward_equivalence[mixtral]": Fault(None, evidence=told)})
    )
    page = Page(html.split("Routing</h3>")[1].split("</p>")[0])
    assert "0 of 5 comparisons (one for each layer, input and dtype) have a routing flip" in page.text
    assert "The smallest margin between two experts: 0.125 (difference of router logits)" in page.text
    assert "0 random float32 128" not in " ".join(Page(html).text.split()).split("Routing")[1]


def test_a_heat_map_s_legend_says_where_the_limit_is() -> None:
    html = render_html(make_results(plan_of("mixtral"), {"test_forward_equivalence[mixtral]": mismatch(moe=True)}))
    assert "1 = limit" in html
    assert html.count(" = limit") == html.count('class="legend"') > 0


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
