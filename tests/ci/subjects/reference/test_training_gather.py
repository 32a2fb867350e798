"""Parts become whole again, and copies that differ are found with their ranks."""

from __future__ import annotations

import torch

from ci.layouts import LAYOUTS
from ci.subjects.reference.convert import list_parameters
from ci.subjects.reference.parameter_shards import cut_parameter
from ci.subjects.reference.training_gather import (
    find_disagreements,
    join_ranks,
    join_slices,
    list_holders,
    split_to_huggingface,
)
from tests.ci.subjects.reference.test_parameter_shards import ARCHITECTURE

PARAMETERS = tuple(list_parameters(ARCHITECTURE))
FULL = {p.name: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for p in PARAMETERS}


def cut(layout: str) -> list[dict[str, torch.Tensor]]:
    """Return what each rank holds of FULL."""
    chosen = LAYOUTS[layout]
    ranks: list[dict[str, torch.Tensor]] = [{} for _ in range(chosen.ranks)]
    for parameter in PARAMETERS:
        for place in list_holders(parameter.name, chosen, ARCHITECTURE):
            part = cut_parameter(parameter, FULL[parameter.name], place.tensor, chosen.tensor)
            ranks[place.rank][parameter.name] = part
    return ranks


def test_every_layout_gives_the_same_whole() -> None:
    for layout in ("single", "tp2", "pp2", "dp2", "dp2_tp2"):
        joined = join_ranks(PARAMETERS, cut(layout), LAYOUTS[layout], ARCHITECTURE)
        assert all(torch.equal(joined[name], FULL[name]) for name in FULL)
    assert split_to_huggingface(PARAMETERS, FULL)["model.layers.0.self_attn.v_proj.weight"].shape == (6, 5)


def test_copies_that_differ_are_found() -> None:
    for layout, name, pair in (
        ("tp2", "decoder.0.norm_1.weight", (0, 1)),
        ("pp2", "embeddings.word_embeddings_weight", (0, 1)),
        ("dp2_tp2", "decoder.0.mixer.query.weight", (1, 3)),
    ):
        ranks = cut(layout)
        assert not list(find_disagreements(PARAMETERS, ranks, LAYOUTS[layout], ARCHITECTURE, "gradient", 1))
        ranks[pair[1]][name] = ranks[pair[1]][name] * 2
        (found,) = find_disagreements(PARAMETERS, ranks, LAYOUTS[layout], ARCHITECTURE, "gradient", 1)
        assert (found.tensor, found.ranks, found.error) == (name, pair, 1.0)


def test_slices_are_joined() -> None:
    assert join_slices([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])], torch.Size([3])).tolist() == [1, 2, 3]
