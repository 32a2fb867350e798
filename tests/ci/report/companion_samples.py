"""Sample runs whose exports have rows of the table beside the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.ci.report.samples import Fault, make_results, plan_of

if TYPE_CHECKING:
    from ci.evidence import Companion
    from ci.report.results import Results


def make_exports(**companions: tuple[Companion, ...]) -> Results:
    """Return a run whose exports have these rows by model; a model without any has no table."""
    plan = plan_of()
    faults = {
        f"test_hub_model_conversion[{name}]": Fault(None, evidence={"companions": rows})
        for name, rows in companions.items()
    }
    return make_results(plan, faults)
