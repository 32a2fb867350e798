"""`conclude`: only jobs that really succeeded are green."""

from __future__ import annotations

import json

import pytest

from ci.errors import RequestError
from ci.verbs.conclude import JobsFailedError, check_jobs


def needs(**results: str) -> str:
    return json.dumps({name: {"result": result, "outputs": {}} for name, result in results.items()})


def test_green_is_only_what_really_succeeded() -> None:
    assert check_jobs(needs(plan="success", night="skipped"), frozenset({"night"}))
    for bad in (
        needs(plan="success", test="skipped"),
        needs(plan="cancelled"),
        needs(plan="failure", test="skipped"),
        needs(night="failure"),
        needs(night="whatever"),
    ):
        with pytest.raises(JobsFailedError, match="ended as"):
            check_jobs(bad, frozenset({"night"}) if "night" in bad else frozenset())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"a": {}}', '{"a": "success"}', "null"])
def test_no_jobs_are_not_green(text: str) -> None:
    with pytest.raises(RequestError):
        check_jobs(text, frozenset())


def test_leave_to_skip_a_job_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="no such job"):
        check_jobs(needs(plan="success"), frozenset({"nigth"}))


@pytest.mark.parametrize("result", ["failure", "cancelled", "success", "skipped"])
def test_what_blocks_nothing_may_end_in_any_way(result: str) -> None:
    both = frozenset({"upstream"})
    assert check_jobs(needs(plan="success", upstream=result), both, both)
    with pytest.raises(JobsFailedError, match="'plan' ended as failure"):
        check_jobs(needs(plan="failure", upstream=result), both, both)


def test_it_is_not_skipped_silently_and_has_to_be_there() -> None:
    with pytest.raises(JobsFailedError, match="'upstream' ended as skipped"):
        check_jobs(needs(plan="success", upstream="skipped"), frozenset(), frozenset({"upstream"}))
    with pytest.raises(RequestError, match="--may-fail upstraem: no such job"):
        check_jobs(needs(plan="success"), frozenset(), frozenset({"upstraem"}))
