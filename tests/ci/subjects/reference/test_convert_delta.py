"""The parameters of both delta mixers: one tensor each, unchanged, with the shapes of the modelling code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.subjects.reference.config import GatedDeltaNet, KimiDeltaAttention
from ci.subjects.reference.convert_delta import list_gated_delta_net, list_kimi_delta_attention
from tests.ci.subjects.reference.test_convert import tensors

if TYPE_CHECKING:
    from tests.ci.subjects.reference.conftest import ModelFactory


def test_each_parameter_is_one_tensor_as_it_is() -> None:
    net = list_gated_delta_net("a.mixer", "b.mixer", GatedDeltaNet(6, 2, 8, 12, 3), 48)
    kimi = list_kimi_delta_attention("a.mixer", "b.mixer", KimiDeltaAttention(3, 10, 3), 48)
    for parameter in (*net, *kimi):
        (part,) = parameter.parts
        assert parameter.shape == part.shape
        assert parameter.name.removeprefix("a.") == part.name.removeprefix("b.")


def test_values_are_kept(factory: ModelFactory) -> None:
    theirs, ours = (tensors(side("apriel2-stochastic")) for side in (factory.source, factory.converted))
    for name in ("gdn.convolution.weight", "gdn.A_log", "kda.f_b_proj.weight", "kda.v_conv.weight", "gdn.norm.weight"):
        stored = theirs[f"model.decoder.blocks.1.mixer.mixers.{name}"]
        assert ours[f"decoder.1.mixer.mixers.{name}/weights"].equal(stored)
