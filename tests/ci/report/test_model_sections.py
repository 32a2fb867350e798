from __future__ import annotations

from dataclasses import replace

from ci.report.html_page import render_html
from tests.ci.report import samples
from tests.ci.report.page import Page
from tests.ci.report.samples import Fault, make_results, mismatch, plan_of


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
