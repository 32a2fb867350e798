"""What must be there before a run begins: the suite's libraries, the subject, one model that was rightly asked for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ci.errors import GatedError, OwnLimitError, RequestError
from ci.subjects.image_root import find_image_root, is_program, refuse_unsandboxed
from ci.subjects.registry import is_importable, shares_interpreter
from ci.subjects.sandbox import choose_isolation

if TYPE_CHECKING:
    from ci.checkpoints import FetchResults
    from ci.run_options import RunOptions

SUITE_NEEDS = ("accelerate", "numpy", "pytest", "safetensors", "torch", "transformers", "xdist", "yaml")
"""What the suite imports beyond the base dependencies."""
_REPORTED = (GatedError, OwnLimitError)
"""Wrong requests of a kind that the report explains."""


def check_suite() -> None:
    """Raise RequestError if the extra `suite` is missing: no subject is to blame for that."""
    if missing := [name for name in SUITE_NEEDS if not find_spec(name)]:
        raise RequestError(f"run needs {', '.join(missing)}: install hub-tests with its extra, hub-tests[suite]")


def check_subject(options: RunOptions) -> None:
    """Raise RequestError if the subject is not there: a wrong path says nothing about a model."""
    from ci.subjects.worker_launch import find_program

    python = options.subject_python
    if python is None and options.subject_path:
        raise RequestError("--subject-path needs --subject-python: it adds to the import path of that interpreter")
    if python is None and options.subject and not is_importable(options.subject):
        raise RequestError(
            f"--subject {options.subject}: cannot be imported here; name an interpreter that has it with "
            "--subject-python, or what it runs in with --environment"
        )
    if python is not None and not is_program(python):
        raise RequestError(
            f"--subject-python {python}: not an executable file; expected an interpreter, like ENV/bin/python"
        )
    for path in options.subject_path:
        if not path.is_dir():
            raise RequestError(f"--subject-path {path}: not a directory; expected the subject's checkout")
    find_program(options.subject_or_default(), options.subject_path)


def check_interpreter(options: RunOptions) -> None:
    """Raise RequestError where the subject's interpreter cannot run as the isolation demands."""
    subject = options.subject_or_default()
    if options.subject_python and (root := find_image_root(options.subject_python)):
        isolation = choose_isolation(options.isolation)
        refuse_unsandboxed(None if isolation.applied else root, isolation.description)
    if options.isolation == "required" and shares_interpreter(subject, options.subject_python):
        raise RequestError(
            f"--isolation required: {subject} is installed in hub-tests' own interpreter and can run code there; "
            "give it its own: --environment, or --subject-python"
        )


def check_requested_models(results: FetchResults) -> None:
    """Raise RequestError if every model was requested wrongly.

    A gated model is no wrong request, and neither is one beyond a limit of hub-tests: they have a report.
    """
    errors = results.errors.values()
    wrong = [error for error in errors if isinstance(error, RequestError) and not isinstance(error, _REPORTED)]
    if not results.checkpoints and len(wrong) == len(errors):
        raise RequestError("; ".join(map(str, wrong)))
