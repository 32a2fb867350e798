"""The comment command `/run-hub-tests …`: parsed as words without a shell, and formatted as a line to paste.

    /run-hub-tests [MODEL|GLOB|@group …] [--layers N|auto|I,J] [--slice vocab=V,experts=E]
        [--deep] [--consumer ENGINE] [--sha SHA] [--failed] [--plan]
    /run-hub-tests bisect MODEL | help | cancel

Only the first line of a comment counts, and only if it begins with exactly `/run-hub-tests`. GitHub's own
`startsWith` ignores case, so the workflow's `if:` lets more comments through than this parser accepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ci.consumers.registry import CONSUMERS, ConsumerName
from ci.errors import RequestError
from ci.github.event import SHA
from ci.hub.layers import LayerRequest, format_layers
from ci.hub.slices import Slice, parse_slice
from ci.models import NAME, RESERVED
from ci.spelling import suggest_name

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = "/run-hub-tests"
GRAMMAR = (
    f"{COMMAND} [MODEL|GLOB|@group …] [--layers N|auto|I,J] [--slice vocab=V,experts=E] [--deep] [--consumer ENGINE]"
    " [--sha SHA] [--failed] [--plan] | bisect MODEL | help | cancel"
)
FLAGS = ("--deep", "--failed", "--plan")
OPTIONS = ("--layers", "--slice", "--consumer", "--sha", *FLAGS)
MAX_LINE_CHARS = 2000
MAX_LAYERS = 1000
_SELECTOR = re.compile(r"@[a-z0-9][a-z0-9_-]{0,62}|[a-z0-9*?\[][a-z0-9_*?\[\]!-]{0,62}")


@dataclass(frozen=True)
class Command:
    """A parsed comment command. `models` are the words as written; none means the default group."""

    verb: Literal["run", "bisect", "help", "cancel"] = "run"
    models: tuple[str, ...] = ()
    layers: LayerRequest | None = None
    sha: str | None = None
    failed: bool = False
    plan: bool = False
    deep: bool = False
    slice: Slice | None = None
    consumer: ConsumerName | None = None

    def format_line(self) -> str:
        """Format as the first line of a comment, which `parse_command` reads back."""
        if self.verb != "run":
            return " ".join([COMMAND, self.verb, *self.models])
        words = [COMMAND, *self.models]
        words += ["--layers", format_layers(self.layers)] if self.layers is not None else []
        words += ["--slice", str(self.slice)] if self.slice is not None else []
        words += ["--deep"] if self.deep else []
        words += ["--consumer", self.consumer] if self.consumer else []
        words += ["--sha", self.sha] if self.sha else []
        words += ["--failed"] if self.failed else []
        words += ["--plan"] if self.plan else []
        return " ".join(words)


def parse_command(body: str) -> Command | None:
    """Parse the command in a comment's body; None if its first line is no command.

    Raises RequestError in one line for a command that cannot be read.
    """
    line = body.split("\n", 1)[0].removesuffix("\r")
    if line != COMMAND and not line.startswith((COMMAND + " ", COMMAND + "\t")):
        return None
    if len(line) > MAX_LINE_CHARS:
        raise RequestError(f"the command has {len(line)} characters, at most {MAX_LINE_CHARS} are read")
    if not_ascii := sorted({char for char in line if not " " <= char <= "~" and char != "\t"}):
        codes = ", ".join(f"U+{ord(char):04X}" for char in not_ascii[:5])
        raise RequestError(f"expected plain ASCII, got {codes}: an editor may have changed dashes or spaces")
    words = line.split()[1:]
    if words in (["help"], ["cancel"]):
        return Command("help" if words == ["help"] else "cancel")
    if words[:1] == ["bisect"]:
        return _parse_bisect(words[1:])
    return _parse_run(words)


def parse_layers(text: str, *, what: str) -> LayerRequest:
    """Parse a number of layers, auto, or indices like 0,3; `what` names the value in the RequestError."""
    if text == "auto":
        return "auto"
    if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= MAX_LAYERS:
        return int(text)
    if re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})+", text):
        picked = tuple(map(int, text.split(",")))
        if picked == tuple(sorted(set(picked))):
            return picked
    raise RequestError(
        f"{what}: expected a number from 1 to {MAX_LAYERS}, or auto, or ascending indices from 0 like 0,3"
    )


def parse_part(text: str, *, what: str) -> Slice:
    """Parse a slice like `vocab=4096,experts=4`; `what` names the value in the RequestError."""
    try:
        return parse_slice(text)
    except RequestError:
        raise RequestError(f"{what}: expected vocab=V, experts=E or both, like vocab=4096,experts=4") from None


def parse_consumer(text: str, *, what: str) -> ConsumerName:
    """Return the engine's name; `what` names the value in the RequestError."""
    for known in CONSUMERS:
        if known == text:
            return known
    raise RequestError(f"{what}: expected {' or '.join(CONSUMERS)}.{suggest_name(text, CONSUMERS)}")


def _parse_bisect(words: list[str]) -> Command:
    if len(words) != 1 or not NAME.fullmatch(words[0]) or words[0] in RESERVED:
        raise RequestError(f"'bisect' takes one model's name and nothing else: {COMMAND} bisect MODEL")
    return Command("bisect", (words[0],))


def _parse_run(words: list[str]) -> Command:
    command = Command()
    remaining = iter(words)
    for word in remaining:
        option, equals_sign, value = word.partition("=")
        if not word.startswith("-"):
            command = replace(command, models=(*command.models, _check_selector(word)))
        elif option not in OPTIONS:
            raise RequestError(f"unknown option '{option}'.{suggest_name(option, OPTIONS)} Expected: {GRAMMAR}")
        elif words.count(option) + sum(other.startswith(option + "=") for other in words) > 1:
            raise RequestError(f"'{option}' is given twice")
        else:
            command = _with_option(command, option, value if equals_sign else None, remaining)
    if command.failed and command.models:
        raise RequestError("'--failed' repeats what failed in the last run; leave the models out")
    return command


def _with_option(command: Command, option: str, value: str | None, remaining: Iterator[str]) -> Command:
    if option in FLAGS:
        if value is not None:
            raise RequestError(f"'{option}' takes no value")
        flag: dict[str, Any] = {option.removeprefix("--"): True}
        return replace(command, **flag)
    value = next(remaining, "") if value is None else value
    if option == "--layers":
        return replace(command, layers=parse_layers(value, what=f"'--layers {value}'"))
    if option == "--slice":
        return replace(command, slice=parse_part(value, what=f"'--slice {value}'"))
    if option == "--consumer":
        return replace(command, consumer=parse_consumer(value, what=f"'--consumer {value}'"))
    return replace(command, sha=_parse_sha(value))


def _check_selector(word: str) -> str:
    if word == "bisect":
        raise RequestError(f"'{word}' must be the first word: {COMMAND} bisect MODEL")
    if word in RESERVED:
        raise RequestError(f"'{word}' must be the only word: {COMMAND} {word}")
    if not _SELECTOR.fullmatch(word):
        raise RequestError(
            f"'{word}' is not a model name, glob or @group; names are lower-case, like 'qwen2-7b' or '@moe'"
        )
    return word


def _parse_sha(value: str) -> str:
    if not SHA.fullmatch(value.lower()):
        raise RequestError(f"'--sha {value}': expected the full commit, 40 hexadecimal digits")
    return value.lower()
