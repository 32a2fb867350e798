"""Text that comes out of a test is hostile; here it is made harmless for the place where it will stand.

    place                              function     what a reader still sees
    anywhere (first step of all)       clean        the text without ANSI, control, bidi and invisible characters,
                                                    secrets replaced by [redacted]
    one line of anything               one_line     the same on one line, clipped
    running Markdown text, list item   text         plain words as they are, every other word as a code span
    Markdown code span                 code         the exact text in backticks
    cell of a Markdown table           cell         like `code` or `text`, its pipes escaped
    Markdown code block                fence        the exact lines, in a fence longer than any run of backticks
    HTML, text or quoted attribute     html         the exact text (the templates escape by themselves as well)
    workflow command                   `ci.github.actions` escapes what `one_line` or `clean` leaves

GitHub finds mentions, issue references, addresses and emoji in *rendered* text, so a backslash or an entity does
not stop them, only code does (https://docs.github.com/en/get-started/writing-on-github). Therefore a word of running
text stays plain only if it consists of harmless characters; any other word becomes a code span.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape as _html

REDACTED = "[redacted]"

_ANSI = re.compile(
    r"(?:\x1b|#x1B)(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()*+][0-9A-Za-z]|[@-Z\\^_=>78c])"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_ESCAPE_BEFORE_REDACTED = re.compile(r"(?:#x1B)+(?=\[redacted\])")
"""What was no sequence until a secret behind it became `[redacted]`, which cleaning once more would bite into."""
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Unicode categories Cc (but tab and newline), Cs, Co, and Cf with the variation selectors' supplement: direction
# overrides, zero-width characters and tags that hide text from people. A test holds the list against unicodedata.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u180e"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb"
    "\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_SECRET = re.compile(
    r"""(?x)
    -----BEGIN[ ][A-Z0-9 ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z0-9 ]*PRIVATE[ ]KEY-----|\Z)
    | \bhf_(?:oauth_|jwt_)?[A-Za-z0-9._-]{16,}          # Hugging Face
    | \bapi_org_[A-Za-z0-9]{16,}
    | \bgh[pousr]_[A-Za-z0-9_]{16,}                     # GitHub, classic and App tokens
    | \bgithub_pat_[A-Za-z0-9_]{16,}
    | \bv1\.[0-9a-f]{40}\b
    | \bglpat-[A-Za-z0-9_-]{16,}
    | \b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}            # AWS key ids
    | \bxox[abeoprs]-[A-Za-z0-9-]{10,}                  # Slack
    | \bAIza[A-Za-z0-9_-]{30,}                          # Google
    | \bsk-[A-Za-z0-9_-]{20,}
    | \bnpm_[A-Za-z0-9]{30,}
    | \bpypi-[A-Za-z0-9_-]{30,}
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*     # JSON web token
    | (?<=://)[^\s/?\#"'<>]{1,512}@                       # user:password@ of an address
    | (?i:(?<=\bbearer[ ])|(?<=\bbasic[ ]))[A-Za-z0-9._~+/=-]{16,}
    | (?i:(?:x-amz-(?:signature|credential|security-token)|signature|key-pair-id|policy|sig)=)[^\s&"'<>]{8,}
    | (?i:[a-z0-9_-]{0,40}(?:token|secret|passw(?:or)?d|api_?key|access_?key)(?:_?(?:key|id|value))?)
      ["']?\s?[=:]\s?["']?
      (?=[^\s"',;<>&]{0,200}[0-9])[A-Za-z0-9/+_.~=-]{16,}
    """,
    re.DOTALL,
)
_HINTS = (
    *("-----begin", "hf_", "api_org_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "v1.", "glpat-"),
    *("akia", "asia", "aroa", "aida", "xox", "aiza", "sk-", "npm_", "pypi-", "eyj", "://", "bearer ", "basic "),
    *("signature", "credential", "key-pair-id", "policy=", "sig=", "token", "secret", "passw", "key"),
)
"""What every secret contains in lower case: looking for these first is a hundred times cheaper than the expression."""

_PLAIN = re.compile(r"""["'(\[]{0,2}[^\W_]+(?:[-.,;'+=/%][^\W_]+)*[%)\]"'.,;:!?…]{0,4}|[%&+=…≤≥<>→\u2013\u2014\xd7-]""")
_PUNCTUATION = re.compile(r"(\(?)([^()]*?)(\)?[,;.]?)|()(.*?)([,;.]?)", re.DOTALL)
"""What stands around a word and is none of it; a bracket only where it is no part of a call or a link."""
_MARKED = re.compile(r"(?i)\bwww\.|\bgh-\d|^[\"'(]*[a-z]{1,10}-\d+\W*$|\b[0-9a-f]{7,40}\b|/\S*/")
_BEGINS_A_BLOCK = re.compile(r"\d+[.)]|[-+=]|\[.*")
_HTML_WORDS = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_BACKTICKS = re.compile(r"`+")


def clean(text: str) -> str:
    """`text` without ANSI sequences, control, bidi and invisible characters, and with secrets redacted."""
    return _clean_short(text) if len(text) <= _SHORT else _clean(text)


def _clean(text: str) -> str:
    if text.isascii() and text.isprintable() and "#x1B" not in text:
        return redact(text)
    text = _LINE_ENDS.sub("\n", text)
    while (bare := _INVISIBLE.sub("", _ANSI.sub("", text))) != text:  # what is removed may have split another one
        text = bare
    return _ESCAPE_BEFORE_REDACTED.sub("", redact(text))


_SHORT = 200
_clean_short = lru_cache(maxsize=50_000)(_clean)


def redact(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `[redacted]`."""
    return _SECRET.sub(REDACTED, text) if any(map(text.lower().__contains__, _HINTS)) else text


def clip(text: str, limit: int) -> str:
    """`text`, or its beginning with a mark that more was there, in at most `limit` characters."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"[:limit]


def one_line(text: str, limit: int = 300) -> str:
    """Cleaned, white space folded into single spaces, clipped."""
    return clip(" ".join(clean(text[: 8 * limit + 4096]).split()), limit)


def text(value: str, limit: int = 300) -> str:
    """Running Markdown text on one line: no mention, link, reference, emoji, HTML or markup can come to life."""
    first, *rest = one_line(value, limit).split(" ")
    begin = code(first) if _BEGINS_A_BLOCK.fullmatch(first) else _word(first)
    return " ".join([begin, *map(_word, rest)])


def code(value: str, limit: int = 300) -> str:
    """A Markdown code span with exactly the cleaned text, or nothing for no text."""
    content = one_line(value, limit)
    if not content:
        return ""
    ticks = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(content)), default=0))
    pad = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{ticks}{pad}{content}{pad}{ticks}"


def cell(markdown: str) -> str:
    """Markdown made by `text` or `code`, for a cell of a table: GitHub splits cells before it looks for code."""
    return markdown.replace("|", "\\|").replace("\n", " ")


def fence(value: str, limit: int = 6_000, language: str = "") -> str:
    """A Markdown code block with the cleaned lines, its fence longer than any run of backticks inside."""
    content = clip(clean(value[: 2 * limit + 4096]).expandtabs(4).strip("\n"), limit)
    ticks = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(content)), default=0))
    return f"{ticks}{language}\n{content}\n{ticks}"


def html(value: str, limit: int = 6_000) -> str:
    """Cleaned text for HTML content or a quoted attribute."""
    return _html(clip(clean(value), limit), quote=True)


def _word(word: str) -> str:
    if _PLAIN.fullmatch(word) and not _MARKED.search(word):
        return _HTML_WORDS.get(word, word)
    before, core, after = (found for found in _PUNCTUATION.fullmatch(word).groups() if found is not None)  # type: ignore[union-attr]
    return f"{before}{code(core)}{after}"
