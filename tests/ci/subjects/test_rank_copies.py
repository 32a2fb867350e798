"""Copies are compared relative to the first one."""

from __future__ import annotations

import torch

from ci.subjects.rank_copies import SAME, compare_copies


def test_the_difference_is_relative_to_the_first_copy() -> None:
    assert compare_copies(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == 0.2
    assert compare_copies(torch.ones(2), torch.ones(2)) == 0
    assert compare_copies(torch.zeros(2), torch.zeros(2)) == 0
    assert compare_copies(torch.zeros(2), torch.ones(2)) == float("inf")


def test_a_copy_that_is_no_number_agrees_with_none() -> None:
    assert not compare_copies(torch.ones(2), torch.tensor([1.0, float("nan")])) <= SAME
