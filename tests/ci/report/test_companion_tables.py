"""One table for each format: rows of several models are merged, the gravest come first, and every text is escaped."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from ci.evidence import Companion
from ci.report.build_results import build_results
from ci.report.companion_tables import MAX_ROWS, build_companion_tables
from ci.report.html_page import render_html
from ci.report.junit import read_junit
from ci.report.markdown import render_markdown
from ci.report.terminal import render_terminal
from tests.ci.report.companion_samples import make_exports
from tests.ci.report.github_markdown import parse_markdown
from tests.ci.report.page import Page
from tests.ci.report.samples import Fault, junit, plan_of

KEPT = (
    Companion("config.json", "hidden_size", "kept", "equal", "96", "96"),
    Companion("tokenizer files", "tokenizer.json", "kept", "equal", reason="the same bytes"),
)
THETA = Companion("config.json", "rope_theta", "dropped", "permitted", "1e4", "", "transformers reads the same value")
EOS = Companion("special ids", "eos in config.json", "changed", "finding", "257", "2")
ACT = Companion("config.json", "hidden_act", "changed", "defect", "gelu", "gelu_tanh", "the forward pass reads it")
NULL = Companion("config.json", "pad_token_id", "added", "equal", "", "None", "null is no value")


def test_rows_of_a_format_are_merged_and_the_gravest_come_first() -> None:
    tables = build_companion_tables(make_exports(smollm2=(*KEPT, THETA, EOS, ACT, NULL), mistral=(*KEPT, THETA)))
    assert [table.checkpoint_format for table in tables] == ["llama", "mistral"]
    llama = tables[0]
    assert [row.companion for row in llama.rows] == [ACT, EOS, THETA, NULL]
    assert [(part.part, part.names) for part in llama.kept] == [
        ("config.json", ("hidden_size",)),
        ("tokenizer files", ("tokenizer.json",)),
    ]
    assert llama.summary == "1 defect, 1 finding, 1 without consequence, 3 the same"
    assert llama.models == ("smollm2",)


def test_a_run_without_exports_has_no_table() -> None:
    assert build_companion_tables(make_exports()) == ()
    assert "Exports beside the weights" not in render_html(make_exports())
    assert "Exports beside the weights" not in render_markdown(make_exports())


def test_the_reports_show_them() -> None:
    results = make_exports(smollm2=(*KEPT, THETA, EOS, ACT))
    page = Page(render_html(results))
    for word in ("Exports beside the weights", "hidden_act", "gelu_tanh", "the forward pass reads it", "rope_theta"):
        assert word in page.text
    assert "kept in config.json: hidden_size" in page.text
    shown = render_markdown(results)
    assert "| `llama` | 1 defect, 1 finding, 1 without consequence, 2 the same " in shown
    assert "`hidden_act changed`, `eos in config.json changed`" in shown
    assert "rope_theta" not in shown


def test_hostile_rows_are_text() -> None:
    attack = "<script>alert(1)</script> @everyone | x\u202e [x](https://evil.example)"
    row = Companion("config.json", attack, "changed", "finding", attack, attack, attack)
    results = make_exports(smollm2=(row,))
    page = Page(render_html(results))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.open == []
    shown = parse_markdown(render_markdown(results))
    assert not shown.active
    assert not shown.html


def test_a_table_has_a_limit_and_says_so() -> None:
    rows = tuple(Companion("config.json", f"key{i}", "added", "permitted") for i in range(MAX_ROWS + 5))
    (table,) = build_companion_tables(make_exports(smollm2=rows))
    assert (len(table.rows), table.more) == (MAX_ROWS, 5)
    assert "5 more rows are in report.json" in Page(render_html(make_exports(smollm2=rows))).text


def test_the_terminal_says_nothing_of_what_is_right() -> None:
    console = Console(width=120, file=StringIO())
    console.print(render_terminal(make_exports(smollm2=(*KEPT, THETA))))
    assert "smollm2" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "rope_theta" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_rows_that_are_no_rows_are_unreadable_evidence() -> None:
    plan = plan_of("smollm2")
    text = junit(plan, {"test_hub_model_conversion[smollm2]": Fault(None, evidence={"companions": (EOS,)})})
    spoiled = text.replace(b'"judgement": "finding"', b'"judgement": "fine"')
    assert spoiled != text
    results = build_results(plan, read_junit(spoiled))
    (case,) = (case for case in results.entries[0].cases if case.step == "test_hub_model_conversion")
    assert case.failure_class == "unproven"
