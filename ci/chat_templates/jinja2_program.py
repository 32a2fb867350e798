"""A program that renders chat templates as transformers does: in its sandboxed Jinja2. It runs on its own.

`jinja2_program.py REQUEST_FD ANSWER_FD` reads a request, one JSON object, and writes one line of JSON for each
rendering as soon as it has it, so that the caller knows where a template hung. The module for the other engine,
huggingface_jinja.mjs, does the same.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from typing import Any, Self

MOMENT = (2026, 2, 3, 4, 5, 6)
"""The moment that each template gets as now, so that no second passes between two renderings."""
MAX_CHARACTERS = 200_000
"""A longer text counts as a refusal: it could not be compared whole."""


class FrozenDatetime(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Self:
        """Return the one moment."""
        return cls(*MOMENT, tzinfo=tz)


def main(request: int, answers: int) -> None:
    """Answer the request on one descriptor with lines on the other."""
    import jinja2
    import transformers
    from transformers.utils import chat_template_utils

    chat_template_utils.datetime = FrozenDatetime
    with os.fdopen(request, encoding="utf-8") as file:
        asked = json.load(file)
    with os.fdopen(answers, "w", encoding="utf-8") as lines:
        engine = f"Jinja2 {jinja2.__version__} of transformers {transformers.__version__}"
        _write(lines, {"engine": engine})
        for index, conversation in enumerate(asked["conversations"]):
            for side in asked["templates"]:
                _write(
                    lines, {"index": index, "side": side["side"], **_render(chat_template_utils, side, conversation)}
                )


def _render(utils: Any, side: dict[str, Any], conversation: dict[str, Any]) -> dict[str, str]:
    """Return the text, or how the template refused."""
    try:
        rendered, _ = utils.render_jinja_template(
            [conversation["messages"]],
            tools=conversation["tools"],
            chat_template=side["template"],
            add_generation_prompt=conversation["add_generation_prompt"],
            **{**side["tokens"], **conversation["switches"]},
        )
        if len(rendered[0]) > MAX_CHARACTERS:
            return {"refusal": f"more than {MAX_CHARACTERS} characters"}
        return {"text": rendered[0]}
    except Exception as error:  # whatever a template raises is its refusal
        return {"refusal": f"{type(error).__name__}: {error}"[:300]}


def _write(lines: Any, line: dict[str, Any]) -> None:
    lines.write(json.dumps(line) + "\n")
    lines.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
