"""Output for the Actions runner: workflow commands, job outputs, the job summary, and text that must not be a command.

Escaping as in actions/toolkit (https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts). Outputs are
heredocs with a random delimiter, so that no value can end its own heredoc
(https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions#multiline-strings).
The runner looks for commands in each line of a step's stdout and stderr: `::name …::` at the beginning of a line, after
white space, and `##[name …]` anywhere in it
(https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs).
"""

from __future__ import annotations

import io
import re
import secrets
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Literal, TextIO, cast

from ci.errors import InfrastructureError, RequestError
from ci.report.limits import SUMMARY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_OUTPUT_BYTES = 2**20
"""Outputs of one job may have 1 MB together (https://docs.github.com/en/actions/reference/workflow-syntax)."""

_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_COMMAND_START = re.compile(
    r"(?:(?<=[\r\n])|\A)((?:[^\S\r\n]|[\0-\x08\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff])*+)(?=::)"
)
"""The runner skips white space; its reader also drops a byte order mark, and other readers drop more."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_OLD_COMMAND_START = re.compile(r"##(?=\[)")


def escape_data(text: str) -> str:
    """Escape `text` for the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Escape `text` for the value of a property of a workflow command."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def format_annotation(level: Literal["error", "warning", "notice"], message: str, *, title: str = "") -> str:
    """Format the workflow command that annotates the step."""
    properties = f" title={escape_property(title)}" if title else ""
    return f"::{level}{properties}::{escape_data(message)}"


def print_annotation(level: Literal["error", "warning", "notice"], message: str, *, title: str = "") -> None:
    """Print a workflow command that the runner carries out, also inside of `guard_output`.

    The runner reads stderr too, and stdout is for answers.
    """
    stream = sys.stderr.unguarded if isinstance(sys.stderr, GuardedStream) else sys.stderr
    print(format_annotation(level, message, title=title), file=stream, flush=True)


def neutralize_commands(text: str) -> str:
    """Return `text` with a backslash in each place where the runner would find a workflow command.

    A lone surrogate could become the byte 0xff: two of them at the beginning make the runner read UTF-16.
    """
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    return _OLD_COMMAND_START.sub(r"#\\#", _COMMAND_START.sub(r"\1\\", text))


class GuardedStream(io.TextIOBase):
    """A text stream that neutralizes workflow commands. It writes whole lines: a command may arrive in pieces."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream
        self._unfinished_line = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute, the class a property
        """The encoding of the stream behind."""
        return self.unguarded.encoding

    def writable(self) -> bool:
        """Return True: the stream is for writing only."""
        return True

    def write(self, text: str, /) -> int:
        """Write the lines that are complete; keep the rest for the next call."""
        lines, newline, self._unfinished_line = (self._unfinished_line + text).rpartition("\n")
        self.unguarded.write(neutralize_commands(lines) + newline)
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind. An unfinished line waits for its end."""
        if not self.unguarded.closed:
            self.unguarded.flush()

    def finish(self) -> None:
        """Write an unfinished last line."""
        self.unguarded.write(neutralize_commands(self._unfinished_line))
        self._unfinished_line = ""
        self.flush()


@contextmanager
def guard_output(environ: Mapping[str, str]) -> Iterator[None]:
    """Neutralize workflow commands in everything that this process prints in Actions.

    Comments, results and error messages contain text of people and code that must not command the runner. The guard is
    on the streams, not at each `print`, so that no call can be forgotten.
    """
    if not _in_actions(environ):
        yield
        return
    stdout, stderr = GuardedStream(sys.stdout), GuardedStream(sys.stderr)
    with redirect_stdout(cast("TextIO", stdout)), redirect_stderr(cast("TextIO", stderr)):
        try:
            yield
        finally:
            try:
                stdout.finish()
            finally:
                stderr.finish()


def write_outputs(path: Path, values: Mapping[str, str]) -> None:
    """Append `values` to the file of `$GITHUB_OUTPUT`.

    Raises RequestError for a name or a size that Actions does not accept.
    """
    text = "".join(_format_output(name, value) for name, value in values.items())
    if len(text.encode()) > MAX_OUTPUT_BYTES:
        raise RequestError(f"outputs of {len(text.encode())} bytes: Actions takes 1 MB a job, ask for fewer models")
    _append(path, text)


def write_summary(path: Path, markdown: str) -> None:
    """Append to the file of `$GITHUB_STEP_SUMMARY`.

    Raises RequestError if the summary is so large that the runner would drop all of it.
    """
    size_before = path.stat().st_size if path.exists() else 0
    if (size := size_before + len(markdown.encode()) + 1) > SUMMARY_BYTES:
        raise RequestError(f"job summary of {size} bytes: above {SUMMARY_BYTES} the runner drops all of it")
    _append(path, markdown + "\n")


def _in_actions(environ: Mapping[str, str]) -> bool:
    return environ.get("GITHUB_ACTIONS") == "true"


def _format_output(name: str, value: str) -> str:
    if not _OUTPUT_NAME.fullmatch(name):
        raise RequestError(f"'{name}' cannot name an output: use letters, digits, '_' and '-'")
    delimiter = f"hub-tests-{secrets.token_hex(16)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot write for the runner: {error.strerror}") from None
