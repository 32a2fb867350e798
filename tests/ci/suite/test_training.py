"""The suite's tests of training, as pytest runs them: green over the reference's layouts, red with the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.suite.training import list_conversion_layouts
from tests.ci.suite.test_deep import ROOT, copy_with_change, run_deep_test

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.server import HubServer

SUM = 'groups.sum(gradient, "data")'


def test_only_layouts_of_the_offer_are_converted() -> None:
    assert list_conversion_layouts("reference") == ("tp2", "pp2", "zero2")


@pytest.mark.long
@pytest.mark.parametrize("wanted", ["test_training_step", "test_resume"])
def test_right_training_is_green(wanted: str, hub: HubServer, tmp_path: Path) -> None:
    code, evidence, output = run_deep_test(ROOT, tmp_path, hub, "qwen", wanted)
    assert code == 0, output
    assert evidence.failure_class is None
    assert "layout" in evidence.coverage


@pytest.mark.long
def test_a_missing_sum_over_data_ranks_is_red_with_its_cause(hub: HubServer, tmp_path: Path) -> None:
    root = copy_with_change(tmp_path, "ci/subjects/reference/training_step.py", SUM, "gradient")
    code, evidence, output = run_deep_test(root, tmp_path, hub, "qwen", "layout-dp2-")
    assert code == 1, output
    assert "the sum over the data ranks is missing" in evidence.diagnosis
