"""A diagnosis gives the exit code and one reason for each failed check."""

from __future__ import annotations

from ci.doctor.records import Check, Diagnosis

CHECKS = (
    Check("hub", "ok", "answered"),
    Check("clock", "warn", "not synchronised"),
    Check("disk /", "fail", "full"),
    Check("gpus", "fail", "0 of 1"),
)


def test_reasons_are_the_failed_checks() -> None:
    assert Diagnosis(False, CHECKS).reasons == ("disk /: full", "gpus: 0 of 1")


def test_an_unfit_host_is_infrastructure() -> None:
    assert [Diagnosis(fit, CHECKS).exit_code for fit in (True, False)] == [0, 3]
