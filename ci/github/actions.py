"""What a step says to the runner: workflow commands, outputs, the job summary. Everything is escaped here.

Escaping as in actions/toolkit (https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts); outputs as
heredocs whose delimiter is random, so that no value can end its own
(https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions#multiline-strings).
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Literal

from ci.errors import InfrastructureError, RequestError
from ci.report.limits import SUMMARY_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OUTPUT_BYTES = 2**20
"""Outputs of one job may have 1 MB together (https://docs.github.com/en/actions/reference/workflow-syntax)."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


def escape_data(text: str) -> str:
    """`text` as the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """`text` as a property's value of a workflow command."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def annotation(level: Literal["error", "warning", "notice"], message: str, *, title: str = "") -> str:
    """The line that makes the runner annotate the step."""
    properties = f" title={escape_property(title)}" if title else ""
    return f"::{level}{properties}::{escape_data(message)}"


def unheeded(text: str) -> str:
    """`text` for a log, in which the runner will obey no workflow command."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text}\n::{token}::"


def write_outputs(path: Path, values: Mapping[str, str]) -> None:
    """Append `values` to `$GITHUB_OUTPUT`. Raises RequestError for a name or a size that Actions would not take."""
    text = "".join(_output(name, value) for name, value in values.items())
    if len(text.encode()) > OUTPUT_BYTES:
        raise RequestError(f"outputs of {len(text.encode())} bytes: Actions takes 1 MB a job, ask for fewer models")
    _append(path, text)


def write_summary(path: Path, markdown: str) -> None:
    """Append to `$GITHUB_STEP_SUMMARY`. Raises RequestError where the runner would drop the whole summary."""
    had = path.stat().st_size if path.exists() else 0
    if (size := had + len(markdown.encode()) + 1) > SUMMARY_BYTES:
        raise RequestError(f"job summary of {size} bytes: above {SUMMARY_BYTES} the runner drops all of it")
    _append(path, markdown + "\n")


def _output(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise RequestError(f"'{name}' cannot name an output: letters, digits, '_' and '-'")
    delimiter = f"hub-tests-{secrets.token_hex(16)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot tell the runner: {error.strerror}") from None
