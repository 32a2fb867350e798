"""Make the text that a test wrote harmless for the place where it is shown. Such text can be an attack.

    place                              function       what a reader still sees
    anywhere (always the first step)   clean          the text without ANSI, control, bidi and invisible characters,
                                                      secrets replaced by [redacted]
    one line of anything               one_line       the same on one line, clipped
    running Markdown text, list item   escape_text    plain words as they are, every other word as a code span
    Markdown code span                 code           the exact text in backticks
    cell of a Markdown table           cell           the result of `code` or `escape_text` with its pipes escaped
    Markdown code block                code_block     the exact lines, in a fence longer than any run of backticks
    Markdown link                      link           the label, linked only to a plain https address
    HTML, text or quoted attribute     escape_html    the exact text (the templates escape by themselves as well)
    workflow command                   `ci.github.actions` escapes the result of `one_line` or `clean`

GitHub finds mentions, issue references, addresses and emoji in *rendered* text. A backslash or an entity does not stop
this, only code does (https://docs.github.com/en/get-started/writing-on-github). Therefore a word of running text stays
plain only if it consists of harmless characters; any other word becomes a code span.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape

from ci.report.redaction import redact

_ANSI = re.compile(
    r"(?:\x1b|#x1B)"
    r"(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b\n#]*+(?:\x07|\x1b\\|#x07|#x1B\\)?|[()*+][0-9A-Za-z]|[@-Z\\^_=>78c])?"
    r"|\x9b[0-?]*+[ -/]*+[@-~]"
)
"""`#x1B` is how pytest writes an escape character into its XML. One without a sequence is removed as well."""
_MAX_ROUNDS = 8
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Unicode categories Cc (but tab and newline), Cs, Co, and Cf with the variation selectors' supplement: direction
# overrides, zero-width characters and tags that hide text from people. A test compares the list with unicodedata.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u180e"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb"
    "\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_LONGEST_TEXT = 2**20
_LONGEST_WORD = 4096
"""Characters; a signed address or a token of GitHub is shorter."""

_PLAIN = re.compile(r"""["'(\[]{0,2}[^\W_]+(?:[-.,;'+=/%][^\W_]+)*[%)\]"'.,;:!?…]{0,4}|[%&+=…≤≥<>→\u2013\u2014\xd7-]""")
_PUNCTUATION = re.compile(r"(\(?)([^()]*?)(\)?[,;.]?)|()(.*?)([,;.]?)", re.DOTALL)
"""Punctuation around a word. A bracket counts only if it is not part of a call or a link."""
_MARKED = re.compile(r"(?i)\bwww\.|\bgh-\d|^[\"'(]*[a-z]{1,10}-\d+\W*$|\b[0-9a-f]{7,40}\b|/\S*/")
_BEGINS_A_BLOCK = re.compile(r"\d+[.)]|[-+=]|\[.*")
_HTML_WORDS = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_BACKTICKS = re.compile(r"`+")
_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~/#?=&%-]*)?")


def clean(text: str) -> str:
    """Remove ANSI sequences, control, bidi and invisible characters, and redact secrets.

    Nothing shown is longer than 2**20 characters: the rest of a longer text is left out before it costs time.
    """
    if len(text) > _LONGEST_TEXT:
        return clean_start(text, _LONGEST_TEXT // 2) + "…"
    return _clean_short(text) if len(text) <= _SHORT else _clean(text)


def clean_start(text: str, size: int) -> str:
    """Clean only the beginning of a long text.

    At least `size` characters are looked at, and they end with a whole word: the first half of a secret is not
    recognized. A private key is recognized without its end.
    """
    if len(text) <= size + _LONGEST_WORD:
        return clean(text)
    start = text[: size + _LONGEST_WORD]
    return clean(start[: max(size, max(start.rfind(space) for space in " \n\t"))])


def _clean(text: str) -> str:
    if text.isascii() and not _CONTROL.search(text) and "#x1B" not in text:
        return redact(text)
    return redact(_remove_invisible(_LINE_ENDS.sub("\n", text)))


def _remove_invisible(text: str) -> str:
    """Remove sequences and invisible characters. A removed part may have split another one.

    Text that is nested deeper than anybody writes keeps a visible mark instead, so that the time stays linear.
    """
    for _ in range(_MAX_ROUNDS):
        bare = _INVISIBLE.sub("", _ANSI.sub("", text))
        if bare == text:
            return text
        text = bare
    return text.replace("#x1B", "\N{REPLACEMENT CHARACTER}")


_SHORT = 200
_clean_short = lru_cache(maxsize=50_000)(_clean)


def clip(text: str, limit: int) -> str:
    """Shorten `text` to at most `limit` characters; "…" marks the cut."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"[:limit]


def one_line(text: str, limit: int = 300) -> str:
    """Clean the text, replace white space by single spaces, and clip it."""
    return clip(" ".join(clean_start(text, 8 * limit).split()), limit)


def escape_text(value: str, limit: int = 300) -> str:
    """Return running Markdown text on one line.

    No mention, link, reference, emoji, HTML or markup in it has an effect.
    """
    first, *rest = one_line(value, limit).split(" ")
    begin = code(first) if _BEGINS_A_BLOCK.fullmatch(first) else _escape_word(first)
    return " ".join([begin, *map(_escape_word, rest)])


def code(value: str, limit: int = 300) -> str:
    """Return a Markdown code span with exactly the cleaned text; "" for no text."""
    content = one_line(value, limit)
    if not content:
        return ""
    ticks = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(content)), default=0))
    pad = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{ticks}{pad}{content}{pad}{ticks}"


def cell(markdown: str) -> str:
    """Return Markdown of `escape_text` or `code` for a table: GitHub splits cells before it parses code."""
    return markdown.replace("|", "\\|").replace("\n", " ")


def code_block(value: str, limit: int = 6_000, language: str = "") -> str:
    """Return a Markdown code block with the cleaned lines.

    Its fence is longer than any run of backticks inside.
    """
    content = clip(clean_start(value, 2 * limit).expandtabs(4).strip("\n"), limit)
    ticks = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(content)), default=0))
    return f"{ticks}{language}\n{content}\n{ticks}"


def escape_html(value: str, limit: int = 6_000) -> str:
    """Return cleaned text for HTML content or a quoted attribute."""
    return escape(clip(clean_start(value, 2 * limit), limit), quote=True)


def is_safe_url(url: str) -> bool:
    """Return whether `url` is a plain https address that needs no escaping in Markdown or HTML."""
    return bool(_URL.fullmatch(url))


def link(label: str, url: str) -> str:
    """Return a Markdown link; "" if `url` is not a plain https address.

    `label` is Markdown already. Only addresses of the platform are passed here, never one that a test wrote.
    """
    return f"[{label}]({url})" if is_safe_url(url) else ""


def _escape_word(word: str) -> str:
    if _PLAIN.fullmatch(word) and not _MARKED.search(word):
        return _HTML_WORDS.get(word, word)
    before, core, after = (part for part in _PUNCTUATION.fullmatch(word).groups() if part is not None)  # type: ignore[union-attr]
    return f"{before}{code(core)}{after}"
