"""What was tested, in a few words: subject, checkpoint, test, and how the subject was isolated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.evidence import NOT_ISOLATED
from ci.report.number_format import pluralize

if TYPE_CHECKING:
    from ci.evidence import Evidence
    from ci.report.results import Results

PICKED = 40
"""Chosen layers, and characters of a slice, that are shown."""
ISOLATION = 120
"""Characters of what a test says about its isolation."""


def describe_isolation(results: Results) -> tuple[str, str]:
    """Return a warning that the subject was not isolated, and else how it was; "" where unknown.

    One test without isolation is enough for the warning: its subject could have changed every other result.
    """
    cases = [case for entry in results.entries for case in entry.cases]
    recorded = list(
        dict.fromkeys(case.evidence.isolation for case in cases if case.evidence and case.evidence.isolation)
    )
    for isolation in recorded:
        if isolation.startswith(NOT_ISOLATED):
            author = "the pull request's" if results.plan.request.pull_request else "the subject's"
            return (
                f"Not isolated ({isolation.removeprefix(NOT_ISOLATED)[:ISOLATION]}): this result is {author} own word.",
                "",
            )
    known = (name[:ISOLATION] for name in recorded[:2])
    return "", ", ".join(
        f"isolation {name}" if name.startswith("not needed") else f"isolated by {name}" for name in known
    )


def describe_checkpoint(evidence: Evidence) -> str:
    """Describe the tested checkpoint: `org/model@1a2b3c4d5e6f with 2 layers`, and what was cut from it."""
    if not evidence.revision:
        return evidence.model_id
    picked = f" ({', '.join(map(str, evidence.picked[:PICKED]))})" if evidence.picked else ""
    sliced = f", sliced to {evidence.slice[:PICKED]}" if evidence.slice else ""
    layers = pluralize(evidence.layers, "layer")
    return f"{evidence.model_id}@{evidence.revision[:12]} with {layers}{picked}{sliced}"


def describe_subject(evidence: Evidence) -> str:
    """Describe the tested subject: `fast_llm 0.3.0 1a2b3c4d5e6f`."""
    commit = (evidence.subject_commit or "")[:12]
    return " ".join(filter(None, [evidence.subject, evidence.subject_version, commit]))


def shorten_test_id(test: str, entry: str) -> str:
    """Shorten a test id that is shown beside its model.

    `test_moe_implementation[dropless-mixtral]` → `moe_implementation dropless`
    """
    step, _, parameter = test.removeprefix("test_").partition("[")
    variant = parameter.removesuffix("]").removesuffix(entry).removesuffix("-")
    return f"{step} {variant}".rstrip()


def label_subject(name: str) -> str:
    """Return what a subject is called in a text: of an adapter's file, its name without the directory."""
    return name.rpartition("/")[2]
