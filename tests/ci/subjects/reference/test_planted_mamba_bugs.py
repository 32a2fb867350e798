"""Bugs in Mamba and in Mamba among attention: each shows, and first in the operation that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.tensor_names import CONTEXT, KEY, NORM_1, QUERY, STEP, VALUE
from tests.ci.subjects.reference.planting import (
    PlantedBug,
    argument,
    delay,
    exchange,
    find_first_wrong,
    find_planted,
    in_function,
    of_path,
    result,
    weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tests.ci.subjects.reference.conftest import ModelFactory

LIMIT = 1e-5
"""The largest error of a right model is below 3e-6; what a bug does is far above."""
MAMBA, HYBRID = "apriel2-mamba", "apriel-hybrid"
GATE, X, B, C = slice(0, 48), slice(48, 64), slice(64, 80), slice(80, 128)
"""The rows of the case's first projection."""
ZEROS = torch.zeros_like


def move_rows(rows: slice, by: int) -> Any:
    """A projection in which some rows are moved."""

    def change(weight: Tensor) -> Tensor:
        return torch.cat([weight[: rows.start], weight[rows].roll(by, 0), weight[rows.stop :]])

    return weights("mixer.in_proj.weight", change)


def swap_x_and_b(weight: Tensor) -> Tensor:
    return torch.cat([weight[GATE], weight[B], weight[X], weight[C]])


def repeat_as_a_whole(_: Any) -> Any:
    """Groups in the order 0 1 0 1, not 0 0 1 1."""

    def wrong(tensor: Tensor, mixer: Any) -> Tensor:
        return tensor.repeat(1, 1, mixer.inner // mixer.grouped)

    return wrong


def write_without_step(scan: Any) -> Any:
    """What is written into the state is not multiplied by the step."""

    def wrong(x: Tensor, steps: Tensor, a_log: Tensor, b: Tensor, c: Tensor, skip: Tensor, documents: Any) -> Tensor:
        read: Tensor = scan(x / steps, steps, a_log, b, c, torch.zeros_like(skip), documents)
        return read + skip * x

    return wrong


def never_reset(find: Any) -> Any:
    return lambda _, like: find(None, like)


def skip_documents(shift: Any) -> Any:
    return lambda tensor, _, back: shift(tensor, None, back)


BUGS = [
    *of_path(
        "Mamba: selective scan",
        PlantedBug(MAMBA, "A_log is taken for A", weights("A_log", lambda a: a.exp().log1p()), CONTEXT),
        PlantedBug(MAMBA, "no decay", weights("A_log", lambda a: a - 30), CONTEXT),
        PlantedBug(MAMBA, "one decay a channel", weights("A_log", lambda a: a[:, :1].expand_as(a)), CONTEXT),
        PlantedBug(MAMBA, "no skip", weights("mixer.D", ZEROS), CONTEXT),
        PlantedBug(MAMBA, "the skip of other channels", weights("mixer.D", lambda d: d.flip(0)), CONTEXT),
        PlantedBug(MAMBA, "the state before the token", result("mamba.run_selective_scan", delay), CONTEXT),
        PlantedBug(
            MAMBA, "written without the step", in_function("mamba.run_selective_scan", write_without_step), CONTEXT
        ),
        PlantedBug(MAMBA, "the state is not reset", in_function("mamba.find_document_starts", never_reset), CONTEXT),
        PlantedBug(MAMBA, "B one token late", argument("mamba.run_selective_scan", 3, delay), CONTEXT),
    ),
    *of_path(
        "Mamba: steps, convolution, groups of heads, gate",
        PlantedBug(MAMBA, "no bias of the steps", weights("dt_proj.bias", ZEROS), STEP),
        PlantedBug(MAMBA, "the bias of the steps counts once", weights("dt_proj.bias", lambda b: b / 2), STEP),
        PlantedBug(MAMBA, "steps without a softplus", in_function("mamba.softplus", lambda _: torch.exp), STEP),
        PlantedBug(MAMBA, "x and B swapped", weights("mixer.in_proj.weight", swap_x_and_b), KEY),
        PlantedBug(MAMBA, "C of another head", move_rows(C, 4), QUERY),
        PlantedBug(MAMBA, "B of another group", move_rows(B, 4), KEY),
        PlantedBug(MAMBA, "groups repeated as a whole", in_function("mamba._repeat_groups", repeat_as_a_whole), KEY),
        PlantedBug(MAMBA, "the convolution is one off", result("mamba.convolve_causally", delay), VALUE),
        PlantedBug(MAMBA, "the taps reversed", weights("convolution.weight", lambda w: w.flip(-1)), VALUE),
        PlantedBug(MAMBA, "no bias of the convolution", weights("convolution.bias", ZEROS), VALUE),
        PlantedBug(
            MAMBA,
            "the convolution reads other documents",
            in_function("delta_rule.shift_tokens", skip_documents),
            VALUE,
        ),
        PlantedBug(MAMBA, "no activation after it", in_function("mamba.silu", lambda _: lambda t: t), VALUE),
        PlantedBug(MAMBA, "the gate of another channel", move_rows(GATE, 1), CONTEXT),
    ),
    *of_path(
        "Mamba blocks among attention",
        PlantedBug(HYBRID, "Mamba blocks in another order", exchange("decoder.1.", "decoder.2."), NORM_1),
        PlantedBug(HYBRID, "one block's steps in another", exchange("1.mixer.dt_", "2.mixer.dt_", both=False), STEP),
        PlantedBug(HYBRID, "one block's decays in another", exchange("1.mixer.A_", "2.mixer.A_", both=False), CONTEXT),
        PlantedBug(HYBRID, "the state is not reset", in_function("mamba.find_document_starts", never_reset), CONTEXT),
        PlantedBug(
            HYBRID,
            "heads of B repeated as a whole",
            in_function("mamba._repeat_groups", repeat_as_a_whole),
            KEY,
        ),
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_shows_first_where_it_is(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: PlantedBug
) -> None:
    assert find_planted(factory, bug, tmp_path / "trace", monkeypatch, LIMIT) == bug.operation


@pytest.mark.parametrize("case", [MAMBA, HYBRID])
def test_nothing_is_wrong_without_a_bug(factory: ModelFactory, tmp_path: Path, case: str) -> None:
    assert find_first_wrong(factory, case, tmp_path / "trace", LIMIT) == ""
