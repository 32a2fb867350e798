"""config.json written from an architecture: the same file for a production model, the same meaning for any other."""

from __future__ import annotations

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config_json import read_config
from ci.subjects.reference.config_json_formats import read_any_config, write_any_config
from ci.subjects.reference.config_json_write import write_config
from tests.ci.subjects.reference.cases import RECIPES, format_of
from tests.ci.subjects.reference.test_config_json import UPSTREAM, config_of, read, upstream


@pytest.mark.parametrize("name", UPSTREAM)
def test_production_configs_come_back_to_the_letter(name: str) -> None:
    config = upstream(name)
    architecture = read_config(config, UPSTREAM[name])
    assert write_config(architecture, UPSTREAM[name], config["torch_dtype"], config) == config


@pytest.mark.parametrize("case", RECIPES)
def test_what_is_written_means_the_same(case: str) -> None:
    architecture = read(case)
    for original in ({}, config_of(case)):
        config = write_any_config(architecture, format_of(case), "float32", original)
        assert read_any_config(config, format_of(case)) == architecture


def test_acting_keys_are_written_from_the_architecture_not_from_the_original() -> None:
    config = config_of("mistral-window")
    wrong = {**config, "rms_norm_eps": 0.5, "sliding_window": 3, "rope_theta": 1.0, "bos_token_id": 77}
    written = write_config(read("mistral-window"), "mistral", "float32", wrong)
    assert written == {**config, "bos_token_id": 77, "torch_dtype": "float32"}


def test_what_a_format_cannot_express_is_refused() -> None:
    for case, other in (
        ("qwen2", "llama"),
        ("mistral-window", "llama"),
        ("llama-biases", "mistral"),
        ("mixtral", "llama"),
    ):
        with pytest.raises(UnsupportedError, match=f"format {other!r} cannot express|not implemented"):
            write_any_config(read(case), other, "float32", {})
