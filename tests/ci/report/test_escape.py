from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ci.report.escape import (
    cell,
    clean,
    clip,
    code,
    code_block,
    escape_html,
    escape_text,
    is_safe_url,
    link,
    one_line,
)
from ci.report.redaction import REDACTED
from tests.ci.report.github_markdown import parse_markdown, split_html

FRAGMENTS = (
    *("@octocat", "@org/team", "#1", "org/repo#7", "GH-12", "fixes #1", "ABC-123", "1a2b3c4d5e6f708192a3b4c5d6e7f809"),
    *("https://evil.example", "http://a.b", "www.evil.example", "ftp://x.y", "mailto:a@b.c", "a@b.example", "xmpp:a@b"),
    *("[link](https://e.x)", "![](https://e.x/p.png)", "[a]: https://e.x", "<https://e.x>", "[![a](b)](c)"),
    *("<img src=x onerror=alert(1)>", "<script>", "</details>", "<!-- x -->", "<!--", "-->", "<a href=//e.x>"),
    *("&lt;", "&#64;a", "`", "``", "```", "````", "~~~", "*a*", "**b**", "_c_", "~~d~~", "\\", "\\`", "|", "\\|", "||"),
    *("# h", "## h", "- x", "+ x", "* x", "1. x", "> q", "---", "===", "    code", "\t", "\n", "\r\n", "\u2028"),
    *("| a | b |", "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\x1b[31m", "#x1B[31m", "\x00", "\x07", "\x9b1m"),
    *(":tada:", "$x$", "$`x`$", "::set-output name=a::b", "%0A", "e\u0301", "é", "日本", "🎉", "\U000e0041", "a.b"),
    *(
        "[conversion]:",
        "[x]",
        "[a",
        "b]",
        "b]:",
        "[^1]",
        "[^1]: x",
        "#x1B#x1B7",
        "#x\u200b1B7",
        "(c)",
        "1.",
        "2)",
        "+",
        "-",
        "=",
        "\\\\|",
        "hf_abcdefghijklmnopqrst",
        "://u:p@h",
    ),
)
hostile = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=8)), max_size=12).map("".join) | st.lists(
    st.sampled_from(FRAGMENTS), max_size=12
).map(" ".join)


def test_no_invisible_character_of_unicode_survives() -> None:
    planes = (range(0xE000), range(0xF900, 0xF0000), (0xD800, 0xDFFF, 0xE000, 0xF8FF, 0xF0000, 0x10FFFD))
    for point in (point for plane in planes for point in plane):
        if unicodedata.category(chr(point)) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and chr(point) not in "\n\t":
            assert clean(f"日{chr(point)}本") in ("日本", "日\n本"), hex(point)


def test_a_secret_cut_by_an_invisible_character_is_still_redacted() -> None:
    assert clean("hf_abcdefghij\u200bklmnopqrstuvwxyz") == REDACTED


@pytest.mark.parametrize(
    "ansi",
    [
        "\x1b[31mred\x1b[0m",
        "#x1B[31mred#x1B[0m",
        "\x1b]8;;https://e.x\x07red\x1b]8;;\x07",
        "\x9b31mred\x1b(B",
        "\x1b[2J\x1b[Hred",
    ],
)
def test_terminal_sequences_are_removed(ansi: str) -> None:
    assert clean(ansi) == "red"


@settings(deadline=None, max_examples=200)
@given(hostile)
@example("#x1B#x1B7sIG=@octocat")
def test_clean_text_is_not_changed(raw: str) -> None:
    assert clean(clean(raw)) == clean(raw)


def test_plain_words_stay_readable() -> None:
    sentence = "query [conversion]: query and key (the reference's) leave the floor by 4,000 x: 43 % of it!"
    assert escape_text(sentence) == sentence


@pytest.mark.parametrize(
    "word",
    [
        *("@octocat", "#1", "GH-12", "JIRA-7", "1a2b3c4", "https://e.x", "www.e.x", "a@b.c"),
        *("<b>", "a*b*", "[x](y)", "`a`", "a_b_", "\\", ":tada:", "$x$"),
    ],
)
def test_a_dangerous_word_becomes_code(word: str) -> None:
    assert escape_text(f"see {word} now") == f"see {code(word)} now"
    assert parse_markdown(escape_text(f"see {word} now")).code == [word]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a_b_,", "`a_b_`,"),
        ("(a_b_)", "(`a_b_`)"),
        ("(a_b_),", "(`a_b_`),"),
        ("a_b_);", "`a_b_`);"),
        ("f(a_b_)", "`f(a_b_)`"),
        ("f(a_b_).", "`f(a_b_)`."),
        ("[x](y)", "`[x](y)`"),
        ("(@octocat)", "(`@octocat`)"),
        ("_,", "`_`,"),
    ],
)
def test_punctuation_is_outside_of_code_unless_it_has_a_meaning(word: str, shown: str) -> None:
    assert escape_text(f"see {word} now") == f"see {shown} now"
    assert not parse_markdown(escape_text(f"see {word} now")).active


def test_a_code_span_is_not_closed_by_backticks_inside() -> None:
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert code("") == ""


def test_a_code_block_is_not_closed_by_a_fence_inside() -> None:
    assert code_block("```\nx\n`````") == "``````\n```\nx\n`````\n``````"


def test_clip_marks_the_cut() -> None:
    assert clip("abcdef", 4) == "abc…"
    assert clip("abcd", 4) == "abcd"
    assert clip("abcd", 0) == ""


@settings(deadline=None, max_examples=120)
@given(hostile)
def test_running_text_has_no_active_content_and_loses_nothing(raw: str) -> None:
    shown = parse_markdown(f"Reason: {escape_text(raw)} - end")
    assert not shown.active
    assert not shown.links
    assert not shown.html
    assert not shown.images
    assert not shown.fences
    assert " ".join(shown.content.split()) == " ".join(f"Reason: {one_line(raw)} - end".split())


@settings(deadline=None, max_examples=120)
@given(hostile)
def test_text_has_no_active_content_at_the_beginning_of_a_line(raw: str) -> None:
    shown = parse_markdown(f"- {escape_text(raw)}\n\n{escape_text(raw)}")
    assert not shown.active
    assert not shown.links
    assert not shown.html
    assert not shown.fences


@settings(deadline=None, max_examples=120)
@given(hostile)
def test_a_code_span_holds_exactly_the_text(raw: str) -> None:
    shown = parse_markdown(f"x {code(raw)} y")
    assert shown.code == ([one_line(raw)] if one_line(raw) else [])
    assert not shown.links
    assert not shown.html


@settings(deadline=None, max_examples=120)
@given(hostile, hostile)
def test_a_table_keeps_its_cells(one: str, two: str) -> None:
    row = f"| {cell(code(one))} | {cell(escape_text(two))} |"
    shown = parse_markdown(f"| a | b |\n| --- | --- |\n{row}\n| c | d |")
    assert shown.cells == 6
    assert not shown.active
    assert not shown.html
    assert not shown.links


@settings(deadline=None, max_examples=120)
@given(hostile)
def test_a_fence_holds_every_line(raw: str) -> None:
    shown = parse_markdown(f"before\n\n{code_block(raw)}\n\nafter")
    assert len(shown.fences) == 1
    assert shown.fences[0].rstrip("\n") == clean(raw).expandtabs(4).strip("\n").rstrip("\n")
    assert not shown.html
    assert shown.plain == ["before", "after"]


@settings(deadline=None, max_examples=100)
@given(hostile)
def test_html_holds_exactly_the_text(raw: str) -> None:
    tags, content = split_html(f'<p title="{escape_html(raw)}">{escape_html(raw)}</p>')
    assert len(tags) == 2
    assert content == clean(raw)


@settings(deadline=None, max_examples=100)
@given(hostile)
def test_cleaning_again_changes_nothing(raw: str) -> None:
    assert clean(clean(raw)) == clean(raw)


@settings(deadline=None, max_examples=80)
@given(hostile, st.integers(0, 60))
def test_one_line_keeps_its_limit(raw: str, limit: int) -> None:
    line = one_line(raw, limit)
    assert len(line) <= limit
    assert "\n" not in line


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://github.com/org/repo/actions/runs/1/job/2#step:3:4", False),
        ("https://github.com/org/repo/actions/runs/1/job/2", True),
        ("https://ghe.example:8443/a/b?c=d&e=f", True),
        ("http://github.com", False),
        ("https://a b", False),
        ("https://a/)[x](y", False),
        ("https://u:p@a/", False),
        ("javascript:alert(1)", False),
        ('https://a/"onclick=', False),
        ("", False),
    ],
)
def test_links(url: str, good: bool) -> None:
    assert is_safe_url(url) == good
    assert link("x", url) == (f"[x]({url})" if good else "")
