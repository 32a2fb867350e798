"""Parse Markdown as GitHub does, and find mentions, links and HTML that would have an effect."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from markdown_it.token import Token

OWN_HTML = re.compile(r"<details>|</details>|<summary>|</summary>|<br>|<code>|</code>|\s+")
ACTIVE = re.compile(
    r"(?i)(?<![\w`])@[a-z0-9]|#\d|\bgh-\d|[a-z][a-z0-9+.-]*://\S|\bwww\.\S|mailto:\S|xmpp:\S|\S@\S+\.\S|:\w+:|\$\S.*\S\$"
    r"|\b[0-9a-f]{7,40}\b(?<![a-z]{7})"
)
_PARSER = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")


@dataclass
class ParsedMarkdown:
    """The parts of a Markdown text: plain text, code, links, images, and HTML that the report does not write itself."""

    plain: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    fences: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: int = 0
    html: list[str] = field(default_factory=list)
    folds: int = 0
    open_folds: int = 0
    cells: int = 0
    content: str = ""

    @property
    def active(self) -> list[str]:
        """Plain pieces in which GitHub would find a mention, a link, a reference, an emoji, or mathematics."""
        return [piece for piece in self.plain if ACTIVE.search(piece)]


def parse_markdown(markdown: str) -> ParsedMarkdown:
    """Split `markdown` into its parts as GitHub's dialect does."""
    parts = ParsedMarkdown()
    _collect_parts(_PARSER.parse(markdown), parts)
    return parts


def _collect_parts(tokens: Iterable[Token], parts: ParsedMarkdown) -> None:
    for token in tokens:
        if token.type == "text":
            parts.plain.append(token.content)
            parts.content += token.content
        elif token.type == "code_inline":
            parts.code.append(token.content)
            parts.content += token.content
        elif token.type in ("fence", "code_block"):
            parts.fences.append(token.content)
        elif token.type in ("html_block", "html_inline"):
            _collect_html(token.content, parts)
        elif token.type == "link_open":
            parts.links.append(str(token.attrs.get("href")))
        elif token.type == "image":
            parts.images += 1
        elif token.type in ("td_open", "th_open"):
            parts.cells += 1
        _collect_parts(token.children or (), parts)


def _collect_html(content: str, parts: ParsedMarkdown) -> None:
    """Accept the HTML of our own folds; the text between their tags is escaped."""
    parts.folds += content.count("<details>")
    parts.open_folds += content.count("<details>") - content.count("</details>")
    reader = _Tags()
    reader.feed(content)
    reader.close()
    parts.html += [tag for tag in reader.tags if not OWN_HTML.fullmatch(tag)]
    parts.plain += reader.outside_code


class _Tags(HTMLParser):
    """Tags, comments and the text outside of `<code>`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.outside_code: list[str] = []
        self.text = ""
        self._in_code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_code += tag == "code"
        self.tags.append(f"<{tag}>" if not attrs else f"<{tag} {attrs}>")

    def handle_endtag(self, tag: str) -> None:
        self._in_code -= tag == "code"
        self.tags.append(f"</{tag}>")

    def handle_comment(self, data: str) -> None:
        self.tags.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.tags.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.tags.append(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self.tags.append(f"<![{data}]>")

    def handle_data(self, data: str) -> None:
        self.text += data
        if not self._in_code:
            self.outside_code.append(data)


def split_html(html: str) -> tuple[list[str], str]:
    """Return every tag of an HTML text, and its text content."""
    reader = _Tags()
    reader.feed(html)
    reader.close()
    return reader.tags, reader.text
