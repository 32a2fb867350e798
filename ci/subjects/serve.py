"""The worker's side: one subject, answering one request a line until its pipe closes.

Runs in the subject's interpreter, which needs nothing of ours but this package's directory: started as a file, it
loads the package `ci` from where it lies, so that neither our site-packages nor anything beside `ci` is importable.
A request is `{"id", "method", "arguments"}`, an answer `{"id", "result"}` or `{"id", "failure", "message"}`, each one
line of JSON on a pipe of its own: what the subject prints goes to the log and cannot be taken for an answer.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ci.subjects.base import Subject


def expose_package() -> None:
    """Make `ci` importable from its own directory alone."""
    directory = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        directory.name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{directory} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[directory.name] = module
    spec.loader.exec_module(module)


def main(arguments: list[str]) -> None:
    """`serve.py SUBJECT READ_FD WRITE_FD`: answer until the judge closes its end."""
    from ci.subjects.open import create

    name, read, write = arguments[0], int(arguments[1]), int(arguments[2])
    for descriptor in (read, write):
        os.set_inheritable(descriptor, False)  # the subject's own children must not hold the judge's pipes open
    subject = create(name)
    with os.fdopen(read, encoding="utf-8") as requests, os.fdopen(write, "w", encoding="utf-8") as answers:
        for line in requests:
            answered = answer(subject, json.loads(line))
            give_back(held="failure" in answered)
            answers.write(json.dumps(answered) + "\n")
            answers.flush()


def answer(subject: Subject, request: dict[str, Any]) -> dict[str, Any]:
    """Call the subject; whatever it raises becomes a failure, with the traceback in the log."""
    from ci.subjects.failure import failure_of, line_of

    try:
        return {"id": request["id"], "result": call(subject, request["method"], request["arguments"])}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"id": request["id"], "failure": failure_of(error), "message": line_of(error)}
    finally:
        sys.stdout.flush()


def give_back(*, held: bool) -> None:
    """Return device memory before the answer, so that the judge can have it; a failed call kept it until now."""
    if "torch" in sys.modules:
        from ci.subjects.memory import give_back_memory

        give_back_memory(held=held)


def call(subject: Subject, method: str, arguments: dict[str, Any]) -> Any:
    """One method of the protocol, records in and out as plain values."""
    from ci.errors import NotOfferedError
    from ci.records import to_dict
    from ci.subjects.base import (
        NO_GRADIENTS,
        ConvertRequest,
        Differentiable,
        ExportRequest,
        GradientRequest,
        TraceRequest,
    )

    if method == "describe":
        return to_dict(subject.describe())
    if method == "variants":
        return [to_dict(variant) for variant in subject.variants(arguments["checkpoint"])]
    if method == "convert":
        return to_dict(subject.convert(ConvertRequest(**arguments)))
    if method == "export":
        return to_dict(subject.export(ExportRequest(**arguments)))
    if method == "trace":
        return to_dict(subject.trace(TraceRequest(**arguments)))
    if method == "release":
        subject.release()
        return True
    if method == "gradients":
        if not isinstance(subject, Differentiable):
            raise NotOfferedError(NO_GRADIENTS)
        return to_dict(subject.gradients(GradientRequest(**arguments)))
    raise ValueError(f"no method {method!r}")


if __name__ == "__main__":
    expose_package()
    from ci.subjects.serve import main as serve

    serve(sys.argv[1:])
