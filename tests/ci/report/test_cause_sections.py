from __future__ import annotations

from ci.report.html_page import render_html
from tests.ci.report import samples
from tests.ci.report.page import Page


def test_the_page_shows_cause_worst_tensor_and_command() -> None:
    text = " ".join(Page(render_html(samples.failing())).text.split())
    assert "Failed: 3 of 3 models, 1 cause" in text
    assert "decoder.1.mixer.query float32 0, 37, 112 of 2 x 64 x 576 0.123457 0.139457 0.016 4e-06 4,000 x" in text
    assert "Reproduce: hub-tests run smollm2 --layers 2 --subject reference --device cuda" in text
    assert "newly failing, last good 028877665544" in text


def test_a_failure_s_sentence_is_said_once() -> None:
    page = Page(render_html(samples.failing()))
    text = " ".join(page.text.partition("output of")[0].split()) + " ".join(page.text.partition("Models")[2].split())
    assert text.count("the rotary embedding is wrong") == 1
    assert ("a", {"href": "#cause-1"}) in page.tags
