"""What would come to life if a text were rendered as GitHub renders it: found by parsing, not by looking for markup."""

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
ALIVE = re.compile(
    r"(?i)(?<![\w`])@[a-z0-9]|#\d|\bgh-\d|[a-z][a-z0-9+.-]*://\S|\bwww\.\S|mailto:\S|xmpp:\S|\S@\S+\.\S|:\w+:|\$\S.*\S\$"
    r"|\b[0-9a-f]{7,40}\b(?<![a-z]{7})"
)
_PARSER = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")


@dataclass
class Rendered:
    """A Markdown text, taken apart: what is plain text, what is code, links, images, and HTML that is not ours."""

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
    def alive(self) -> list[str]:
        """Plain pieces in which GitHub would find a mention, a link, a reference, an emoji, or mathematics."""
        return [piece for piece in self.plain if ALIVE.search(piece)]


def rendered(markdown: str) -> Rendered:
    """The parts of `markdown` as GitHub's dialect sees them."""
    found = Rendered()
    _walk(_PARSER.parse(markdown), found)
    return found


def _walk(tokens: Iterable[Token], found: Rendered) -> None:
    for token in tokens:
        if token.type == "text":
            found.plain.append(token.content)
            found.content += token.content
        elif token.type == "code_inline":
            found.code.append(token.content)
            found.content += token.content
        elif token.type in ("fence", "code_block"):
            found.fences.append(token.content)
        elif token.type in ("html_block", "html_inline"):
            _html(token.content, found)
        elif token.type == "link_open":
            found.links.append(str(token.attrs.get("href")))
        elif token.type == "image":
            found.images += 1
        elif token.type in ("td_open", "th_open"):
            found.cells += 1
        _walk(token.children or (), found)


def _html(content: str, found: Rendered) -> None:
    """Our own folds may stand in HTML; the text between their tags is escaped text, in `<code>` or not."""
    found.folds += content.count("<details>")
    found.open_folds += content.count("<details>") - content.count("</details>")
    reader = _Tags()
    reader.feed(content)
    reader.close()
    found.html += [tag for tag in reader.tags if not OWN_HTML.fullmatch(tag)]
    found.plain += reader.outside_code


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


def tags_and_text(html: str) -> tuple[list[str], str]:
    """Every tag of an HTML text, and its text content."""
    reader = _Tags()
    reader.feed(html)
    reader.close()
    return reader.tags, reader.text
