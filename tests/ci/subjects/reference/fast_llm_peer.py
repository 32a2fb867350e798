"""The real Fast-LLM as a peer: runs in its own interpreter, does the calls of a JSON file, answers in another.

`python fast_llm_peer.py CALLS ANSWERS`; a call is {"do": "convert" or "trace", "request": {…}}, an answer is null or
the one line of an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ci.errors import HubTestsError
from ci.subjects.base import ConvertRequest, TraceRequest
from ci.subjects.fast_llm.subject import FastLLMSubject


def answer(subject: FastLLMSubject, do: str, request: dict[str, Any]) -> str | None:
    try:
        if do == "convert":
            subject.convert(ConvertRequest(**request))
        else:
            subject.trace(TraceRequest(**request))
    except HubTestsError as error:
        return str(error)
    return None


def main(calls: str, answers: str) -> None:
    subject = FastLLMSubject()
    responses = [answer(subject, **call) for call in json.loads(Path(calls).read_text())]
    Path(answers).write_text(json.dumps(responses))


if __name__ == "__main__":
    main(*sys.argv[1:])
