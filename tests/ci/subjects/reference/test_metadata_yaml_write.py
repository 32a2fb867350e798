"""Fast-LLM's configuration tree written from an architecture: it reads back as the same architecture."""

from __future__ import annotations

import pytest

from ci.subjects.reference.metadata_yaml import read_base_model
from ci.subjects.reference.metadata_yaml_write import write_base_model
from tests.ci.subjects.reference.cases import RECIPES
from tests.ci.subjects.reference.test_config_json import read


@pytest.mark.parametrize("case", RECIPES)
def test_every_architecture_reads_back(case: str) -> None:
    architecture = read(case)
    assert read_base_model(write_base_model(architecture)) == architecture


def test_blocks_that_differ_become_a_pattern() -> None:
    tree = write_base_model(read("qwen2-layer-types"))
    assert tree["decoder"]["pattern"] == ["block_0", "block_1", "block_0"]
    assert "window_size" not in tree["decoder"]["blocks"]["block_1"]["mixer"]
