"""What a subject is known to refuse: declared in the registry, by the subject's own words, since when, with a link.

The registry is the service's or the default branch's, so no pull request declares its own refusals. One that is known
is neutral, whatever else was meant to be tested; any other failure of the same model is red as before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from ci.records import STRICT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MIN_WORDS, MAX_WORDS = 12, 300
"""Characters of a refusal's words: fewer would fit to other failures, more are cut from a report's sentence."""
VARIES = "{}"
"""Stands in a refusal's words for one word that the model's own file decides, such as a key's name."""
MAX_VARYING = 2
MAX_LINK = 300
MAX_NAMED = 12
"""Models that one line names."""


@dataclass(frozen=True)
class KnownRefusal:
    """One refusal. `since` is a date, `finding` a URL or a path of docs.

    `words` are the subject's whole message, but for what stands before a colon and the place in brackets at its end;
    each `{}` in them stands for one word.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    subject: str
    words: str
    since: str
    finding: str

    def is_said_in(self, sentence: str) -> bool:
        """Return whether a message is exactly these words; lines and spaces do not count."""
        words = r"\S{1,60}".join(map(re.escape, " ".join(self.words.split()).split(VARIES)))
        return bool(re.search(rf"(?:^|: ){words}(?: \([^ ()]+:\d+\))?$", " ".join(sentence.split())))


@dataclass(frozen=True)
class LeftOut:
    """A registry entry that a run leaves out, because its subject is known to refuse it."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    refusal: KnownRefusal


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """Say in one line which models are left out and why; "" for none."""
    if not left_out:
        return ""
    names = ", ".join(one.name for one in left_out[:MAX_NAMED])
    more = f" and {len(left_out) - MAX_NAMED} more" if len(left_out) > MAX_NAMED else ""
    findings = ", ".join(dict.fromkeys(one.refusal.finding for one in left_out[:MAX_NAMED]))
    subjects = ", ".join(dict.fromkeys(one.refusal.subject for one in left_out))
    return f"left out: {names}{more}, known to be refused by {subjects} ({findings}); each runs where it is named"


def find_refusal(refusals: Iterable[KnownRefusal], subject: str) -> KnownRefusal | None:
    """Return the refusal of one subject; None where it is known for none."""
    return next((refusal for refusal in refusals if refusal.subject == subject), None)


def list_problems(refusals: Iterable[KnownRefusal]) -> Iterator[str]:
    """List what is wrong with the refusals of one registry entry."""
    seen: set[str] = set()
    for one in refusals:
        where = f"known_refusals of '{one.subject[:80]}'"
        if not one.subject or one.subject in seen:
            yield f"{where}: expected one table for each subject, with its name"
        fixed = one.words.replace(VARIES, "").strip()
        if not MIN_WORDS <= len(fixed) <= len(one.words) <= MAX_WORDS or not one.words.isprintable():
            yield f"{where}: words: expected {MIN_WORDS} to {MAX_WORDS} characters, the subject's whole message"
        if one.words.count(VARIES) > MAX_VARYING:
            yield f"{where}: words: expected at most {MAX_VARYING} parts that vary ({VARIES})"
        if not _is_date(one.since):
            yield f"{where}: since: '{one.since[:40]}' is not a date like 2026-11-27"
        if not 0 < len(one.finding) <= MAX_LINK or not one.finding.isprintable():
            yield f"{where}: finding: expected the address or the page that tells of it"
        seen.add(one.subject)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
