"""The rope keys of config.json: both of transformers' styles, and what YaRN infers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ci.subjects.reference.config import DefaultRope, Llama3Rope, Rope, YarnRope
from ci.subjects.reference.config_json_rope import read_rope, write_rope
from ci.subjects.reference.config_section import ConfigSection
from tests.ci.subjects.reference.cases import ABSENT
from tests.ci.subjects.reference.test_config_json import read
from tests.standin.recipes import LLAMA3


@pytest.mark.parametrize("original", [{}, {"rope_parameters": {}}], ids=["transformers 4", "transformers 5"])
@pytest.mark.parametrize(
    "rope", [DefaultRope(700.0), Llama3Rope(700.0, 8.0, 1.0, 4.0, 48), YarnRope(700.0, 4.0, 1.2, 32.0, 1.0, 48)]
)
def test_what_is_written_reads_back(rope: Rope, original: dict[str, Any]) -> None:
    written = write_rope(rope, original)
    assert ("rope_parameters" in written) == ("rope_parameters" in original)
    assert read_rope(ConfigSection("config.json", written), 1.0) == rope


def test_rope_styles_of_both_transformers_mean_the_same() -> None:
    inner = {key: value for key, value in LLAMA3.items() if key != "rope_type"}
    new = {"rope_parameters": {**LLAMA3, "rope_theta": 700.0}, "rope_scaling": ABSENT, "rope_theta": ABSENT}
    styles: list[dict[str, Any]] = [
        {"rope_theta": 700.0, "rope_scaling": LLAMA3},
        {"rope_theta": 700.0, "rope_scaling": {**inner, "type": "llama3"}},
        {"rope_theta": 700, "rope_scaling": {**LLAMA3, "type": "llama3"}},
        new,
        {**new, "rope_theta": 1.0},
    ]
    assert {read("llama", **style).blocks[0].attention.rope for style in styles} == {
        Llama3Rope(700.0, 8.0, 1.0, 4.0, 48)
    }


def test_yarn_infers_what_is_not_given() -> None:
    bare = {"rope_type": "yarn", "factor": 4.0}
    rope = read("llama", rope_scaling=bare, max_position_embeddings=64).blocks[0].attention.rope
    assert rope == YarnRope(10000.0, 4.0, 0.1 * math.log(4.0) + 1.0, 32.0, 1.0, 64)
    rope = read("llama", rope_scaling=bare, original_max_position_embeddings=24).blocks[0].attention.rope
    assert isinstance(rope, YarnRope)
    assert rope.original_context_length == 24
