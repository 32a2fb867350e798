"""The catalogue of training faults: enough of each kind, each place exists, and planting leaves nothing behind."""

from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks.mutation.training_faults import FAULTS, REFERENCE, TrainingFault
from benchmarks.mutation.training_models import TRAINING_MODELS
from ci.subjects.reference.offer import LAYOUTS_OFFERED


def test_there_are_enough_faults_of_each_kind() -> None:
    assert sum(fault.kind == "parallelism" for fault in FAULTS) >= 20
    assert sum(fault.kind == "training step" for fault in FAULTS) >= 15
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.model for fault in FAULTS} == set(TRAINING_MODELS)
    assert {fault.layout for fault in FAULTS} <= set(LAYOUTS_OFFERED)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_planted_and_taken_out_again(fault: TrainingFault) -> None:
    before = {each.place: find(each.place) for each in fault.replacements}
    with fault.injected():
        assert all(find(place) is not original for place, original in before.items())
    assert all(find(place) is original for place, original in before.items())


def find(place: str) -> object:
    module, _, path = place.partition(":")
    owner, (*parents, name) = import_module(f"{REFERENCE}.{module}"), path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return vars(owner)[name]
