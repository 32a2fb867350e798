"""A failed check is repeated without earlier runs' code where there was any, and only there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ci.equivalence.cold_repeat import has_compile_cache, repeat_without_cache
from ci.equivalence.verdict import Verdict
from ci.evidence import REPEATED

if TYPE_CHECKING:
    from ci.evidence import FailureClass


@dataclass
class Cached:
    """A subject with code of earlier runs, until it is dropped."""

    warm: bool = True
    blamed: bool = False
    seen: list[bool] = field(default_factory=list)

    def uses_compile_cache(self) -> bool:
        return self.warm

    def drop_compile_cache(self) -> bool:
        warm, self.warm = self.warm, False
        return warm

    def blame_compile_cache(self) -> None:
        self.blamed = True

    def compile_cache_figures(self) -> dict[str, float]:
        return {}


def check(subject: Cached, *outcomes: bool) -> Verdict:
    answers = iter(outcomes)

    def once() -> Verdict:
        subject.seen.append(subject.warm)
        return Verdict(passed=next(answers), notes=("a note",))

    return repeat_without_cache(subject, once)


def test_a_pass_is_not_repeated() -> None:
    subject = Cached()
    assert check(subject, True) == Verdict(passed=True, notes=("a note",))
    assert (subject.seen, subject.warm) == ([True], True)


@pytest.mark.parametrize(
    ("second", "says"), [(True, "then it passed, the compile cache was wrong"), (False, "it failed again")]
)
def test_a_failure_with_earlier_code_is_repeated_without(second: bool, says: str) -> None:
    subject = Cached()
    verdict = check(subject, False, second)
    assert verdict == Verdict(passed=second, notes=("a note", f"{REPEATED}{says}"))
    assert (subject.seen, subject.blamed) == ([True, False], second)
    assert check(subject, False).notes == ("a note",)


def test_a_failure_without_earlier_code_stands() -> None:
    subject = Cached(warm=False)
    assert not check(subject, False).passed
    assert subject.seen == [False]
    assert not repeat_without_cache(object(), lambda: Verdict(passed=False)).passed


@pytest.mark.parametrize("failure", ["environment", "variant_did_not_run"])
def test_what_no_compiled_code_can_cause_is_not_repeated(failure: FailureClass) -> None:
    subject = Cached()
    assert not repeat_without_cache(subject, lambda: Verdict(passed=False, failure_class=failure)).notes
    assert subject.warm


def test_only_a_subject_that_can_have_a_cache_has_one() -> None:
    assert has_compile_cache(Cached())
    assert not has_compile_cache(Cached(warm=False))
    assert not has_compile_cache(object())
