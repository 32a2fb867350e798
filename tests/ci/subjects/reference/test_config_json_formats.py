from __future__ import annotations

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config_json_formats import read_any_config, write_any_config
from ci.subjects.reference.offer import OFFER
from tests.ci.subjects.reference.cases import CASES, format_of
from tests.ci.subjects.reference.test_config_json import config_of, read


def test_every_format_of_the_offer_is_read_and_written() -> None:
    cases = {format_of(case): case for case in CASES}
    assert {*cases} == {*OFFER.formats}
    for checkpoint_format, case in cases.items():
        written = write_any_config(read(case), checkpoint_format, "bfloat16", config_of(case))
        assert read_any_config(written, checkpoint_format) == read(case)
        assert "bfloat16" in (written.get("dtype"), written.get("torch_dtype"))


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="'gpt_neox' is not implemented"):
        read_any_config({}, "gpt_neox")


@pytest.mark.parametrize("case", ["llama", "mixtral", "qwen2", "mistral-window"])
def test_what_gemma4_cannot_express_is_refused(case: str) -> None:
    with pytest.raises(UnsupportedError, match="'gemma4'"):
        write_any_config(read(case), "gemma4", "float32", {})
