"""What an architecture says about its mixers."""

from __future__ import annotations

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config import Attention, GatedDeltaNet, KimiDeltaAttention, StochasticMixer
from tests.ci.subjects.reference.test_config_json import read


def test_the_main_mixer_runs_unless_another_is_chosen() -> None:
    mixer = read("apriel2-stochastic").blocks[0].mixer
    assert isinstance(mixer, StochasticMixer)
    assert mixer.choose("")[0] == mixer.main == "gdn"
    assert isinstance(mixer.choose("kda")[1], KimiDeltaAttention)


def test_every_mixer_of_every_block_is_listed() -> None:
    kinds = [type(mixer) for mixer in read("apriel2-stochastic").mixers]
    assert kinds == [Attention, Attention, GatedDeltaNet, KimiDeltaAttention] * 3
    assert [type(mixer) for mixer in read("apriel2-pattern").mixers] == [Attention, GatedDeltaNet, KimiDeltaAttention]


def test_attention_of_another_mixer_is_refused_by_name() -> None:
    attention, net = (block for block in read("apriel2-pattern").blocks[:2])
    assert attention.attention is attention.mixer
    with pytest.raises(UnsupportedError, match="not for GatedDeltaNet"):
        _ = net.attention
