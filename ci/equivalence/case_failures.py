"""Inputs and checks that ended with an error: the others are judged all the same, and what is told names both.

An error of Hugging Face's own forward pass counts as much as one of the subject's: without it nothing is compared.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ci.equivalence.verdict import Verdict
from ci.errors import HubTestsError, InfrastructureError, SubjectError
from ci.evidence import NOT_COVERED, SUBJECT_FAILURES, FailureClass
from ci.subjects.failure import SubjectTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


@dataclass
class CaseFailures:
    """Collects the errors by input. After a timeout nothing more is run: the next input might take as long."""

    errors: dict[str, HubTestsError] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether no further input should run."""
        return any(isinstance(error, SubjectTimeoutError) for error in self.errors.values())

    @contextmanager
    def keep(self, name: str) -> Iterator[None]:
        """Keep the error that ends the block of an input."""
        try:
            yield
        except (SubjectError, InfrastructureError) as error:
            self.errors[name] = error

    def raise_first(self) -> None:
        """Raise the first error: for a check in which nothing was compared."""
        if first := next(iter(self.errors.values()), None):
            raise first

    def describe(self) -> str:
        """Name the inputs that failed, those with one error together, and those that were left out."""
        by_error: dict[str, list[str]] = {}
        for name, error in self.errors.items():
            by_error.setdefault(str(error), []).append(repr(name))
        said = [f"the forward pass of {', '.join(names)} failed: {error}" for error, names in by_error.items()]
        return "; ".join([*said, *([f"not run after that: {', '.join(self.left_out)}"] if self.left_out else [])])

    @property
    def failure_class(self) -> FailureClass:
        """The class of the first error of a subject; "environment" where there is none."""
        classes = (classify_error(error) for error in self.errors.values() if isinstance(error, SubjectError))
        return next(classes, "environment")


def classify_error(error: HubTestsError) -> FailureClass:
    """Return the failure class of an error that ended a comparison: only one of a subject blames it."""
    return SUBJECT_FAILURES.get(error.failure, "other") if isinstance(error, SubjectError) else "environment"


def check_each(checks: Mapping[str, Callable[[], Verdict]]) -> tuple[Verdict, ...]:
    """Run named checks that do not build on each other; an error of one leaves the others judged.

    Raises the first error where no check came to a verdict. After a timeout no other check is run.
    """
    failures, verdicts = CaseFailures(), dict[str, Verdict]()
    for name, check in checks.items():
        if failures.ended:
            failures.left_out.append(name)
            continue
        with failures.keep(name):
            verdicts[name] = check()
    if not verdicts:
        failures.raise_first()
    after = f"; not run after that: {', '.join(failures.left_out)}" if failures.left_out else ""
    for name, error in failures.errors.items():
        verdicts[name] = Verdict(passed=False, failure_class=classify_error(error), diagnosis=f"{name}: {error}{after}")
    return tuple(verdicts[name] for name in checks if name in verdicts)


def add_failures(verdict: Verdict, failures: CaseFailures, compared: Sequence[str]) -> Verdict:
    """Return the verdict over the inputs that were compared, not passed where any other failed.

    What is wrong in a compared input comes first, in class and diagnosis.
    """
    if not failures.errors:
        return verdict
    told = failures.describe()
    said = f"{verdict.diagnosis}; then {told}" if verdict.diagnosis else f"{told}; right: {', '.join(compared)}"
    missed = f"{NOT_COVERED}{', '.join([*failures.errors, *failures.left_out])}"
    failure_class = verdict.failure_class or failures.failure_class
    coverage = {**verdict.coverage, "failed inputs": missed}
    return replace(verdict, passed=False, failure_class=failure_class, diagnosis=said, coverage=coverage)
