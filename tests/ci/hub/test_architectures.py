"""The records of model types: each is found, each pattern compiles, and what transformers says is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ci.hub.architectures import ARCHITECTURES, UNKNOWN, find_architecture
from ci.hub.layers import MTP_WORDS


def test_records_are_found_by_the_first_type_that_has_one() -> None:
    assert find_architecture(None, "no such type", "qwen3_next").mtp == r"^mtp"
    assert find_architecture("gemma2").period == 2
    assert find_architecture(["x"], 3) is UNKNOWN
    assert UNKNOWN not in ARCHITECTURES.values()


def test_patterns_of_one_record_do_not_contradict_each_other() -> None:
    for record in ARCHITECTURES.values():
        assert not (record.mtp and record.kept_mtp)
        for pattern in (record.mtp, record.kept_mtp):
            re.compile(pattern)


def test_what_transformers_ignores_as_mtp_is_in_the_records() -> None:
    """`_keys_to_ignore_on_load_unexpected` of each modeling file; layers by number follow from config.json."""
    transformers = pytest.importorskip("transformers", reason="needs the extra suite")
    missing = []
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        named = re.findall(r"_keys_to_ignore_on_load_unexpected\s*=\s*\[([^\]]*)\]", path.read_text(encoding="utf-8"))
        for text in named:
            for pattern in re.findall(r'"([^"]+)"', text):
                example = re.sub(
                    r"[\\^$()|*]|\(\^\|\\\.\)",
                    "",
                    pattern.replace(r"(^|\.)", "").replace(r"\.", ".").replace(".*", ".x"),
                )
                if MTP_WORDS.search(example) and not find_architecture(path.parent.name).mtp:
                    missing.append((path.parent.name, pattern))
    assert not missing
