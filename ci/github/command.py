"""The comment command `/run-hub-tests …`: parsed as words without a shell, and printed back as the line to paste.

    /run-hub-tests [MODEL|GLOB|@group …] [--layers N|auto] [--sha SHA] [--failed] [--plan] | help | cancel

Only the first line of a comment counts, and only when it begins with exactly `/run-hub-tests`. GitHub's own
`startsWith` ignores case, so the workflow's `if:` lets more through than this parser accepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.models import suggest_name

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "/run-hub-tests"
GRAMMAR = f"{NAME} [MODEL|GLOB|@group …] [--layers N|auto] [--sha SHA] [--failed] [--plan] | help | cancel"
SHA = re.compile(r"[0-9a-f]{40}")
OPTIONS = ("--layers", "--sha", "--failed", "--plan")
MAX_LINE = 2000
MAX_LAYERS = 1000
_SELECTOR = re.compile(r"@[a-z0-9][a-z0-9_-]{0,62}|[a-z0-9*?\[][a-z0-9_*?\[\]!-]{0,62}")


@dataclass(frozen=True)
class Command:
    """What a comment asks for. `models` are the words as written; none means the default group."""

    verb: Literal["run", "help", "cancel"] = "run"
    models: tuple[str, ...] = ()
    layers: int | Literal["auto"] | None = None
    sha: str | None = None
    failed: bool = False
    plan: bool = False

    def line(self) -> str:
        """The command as a comment's first line: what people paste, and what `parse` reads back."""
        if self.verb != "run":
            return f"{NAME} {self.verb}"
        words = [NAME, *self.models]
        words += ["--layers", str(self.layers)] if self.layers is not None else []
        words += ["--sha", self.sha] if self.sha else []
        words += ["--failed"] if self.failed else []
        words += ["--plan"] if self.plan else []
        return " ".join(words)


def parse(body: str) -> Command | None:
    """The command in a comment's body, or None where its first line is not one.

    Raises RequestError in one line for a command that cannot be read.
    """
    first = body.split("\n", 1)[0].removesuffix("\r")
    if first != NAME and not first.startswith((NAME + " ", NAME + "\t")):
        return None
    if len(first) > MAX_LINE:
        raise RequestError(f"the command has {len(first)} characters, at most {MAX_LINE} are read")
    if foreign := sorted({char for char in first if not " " <= char <= "~" and char != "\t"}):
        seen = ", ".join(f"U+{ord(char):04X}" for char in foreign[:5])
        raise RequestError(f"plain ASCII is expected, found {seen}: an editor may have changed dashes or spaces")
    words = first.split()[1:]
    if words in (["help"], ["cancel"]):
        return Command("help" if words == ["help"] else "cancel")
    return _run(words)


def _run(words: list[str]) -> Command:
    command = Command()
    rest = iter(words)
    for word in rest:
        option, joined, value = word.partition("=")
        if not word.startswith("-"):
            command = replace(command, models=(*command.models, _selector(word)))
        elif option not in OPTIONS:
            raise RequestError(f"unknown option '{option}'.{suggest_name(option, OPTIONS)} Expected: {GRAMMAR}")
        elif words.count(option) + sum(other.startswith(option + "=") for other in words) > 1:
            raise RequestError(f"'{option}' is given twice")
        else:
            command = _with_option(command, option, value if joined else None, rest)
    if command.failed and command.models:
        raise RequestError("'--failed' repeats what failed in the last run; leave the models out")
    return command


def _with_option(command: Command, option: str, value: str | None, rest: Iterator[str]) -> Command:
    if option in ("--failed", "--plan"):
        if value is not None:
            raise RequestError(f"'{option}' takes no value")
        return replace(command, failed=True) if option == "--failed" else replace(command, plan=True)
    value = next(rest, "") if value is None else value
    return replace(command, layers=_layers(value)) if option == "--layers" else replace(command, sha=_sha(value))


def _selector(word: str) -> str:
    if word in ("help", "cancel"):
        raise RequestError(f"'{word}' stands alone: {NAME} {word}")
    if not _SELECTOR.fullmatch(word):
        raise RequestError(
            f"'{word}' is no model name, glob or @group; names are lower-case, like 'qwen2-7b' or '@moe'"
        )
    return word


def _layers(value: str) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,4}", value) or not 1 <= int(value) <= MAX_LAYERS:
        raise RequestError(f"'--layers {value}': expected a number from 1 to {MAX_LAYERS}, or auto")
    return int(value)


def _sha(value: str) -> str:
    if not SHA.fullmatch(value.lower()):
        raise RequestError(f"'--sha {value}': expected the full commit, 40 hexadecimal digits")
    return value.lower()
