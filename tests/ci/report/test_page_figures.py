from __future__ import annotations

import re

from ci.report.html_page import render_html
from tests.ci.report import samples
from tests.ci.report.samples import make_results, mismatch, plan_of


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


def test_a_heat_map_s_legend_says_where_the_limit_is() -> None:
    html = render_html(make_results(plan_of("mixtral"), {"test_forward_equivalence[mixtral]": mismatch(moe=True)}))
    assert "1 = limit" in html
    assert html.count(" = limit") == html.count('class="legend"') > 0
