"""The rows of special tokens: what config, its text part, generation config and tokenizer say, side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.companion_ids import list_special_ids
from ci.equivalence.export_files import open_exported

if TYPE_CHECKING:
    from pathlib import Path

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
SAME = {CONFIG: {"eos_token_id": 2}}
DECODER = {"eos_token": "</s>", "added_tokens_decoder": {"2": {"content": "</s>"}}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str, str, str, str]]] = {
    "the same": (SAME, SAME, ("eos", "kept", "equal", "config 2", "config 2")),
    "one more place": (
        SAME,
        {**SAME, GENERATION: {"eos_token_id": [2, 3]}},
        ("eos", "changed", "permitted", "config 2", "config 2, generation_config [2, 3]"),
    ),
    "another id": (SAME, {CONFIG: {"eos_token_id": 1}}, ("eos", "changed", "finding", "config 2", "config 1")),
    "none any more": (SAME, {}, ("eos", "dropped", "finding", "config 2", "none")),
    "one that was none": ({}, SAME, ("eos", "added", "permitted", "none", "config 2")),
    "the ids of a model that sees move into its text part": (
        SAME,
        {CONFIG: {"text_config": {"eos_token_id": 1}}},
        ("eos", "changed", "finding", "config 2", "text_config 1"),
    ),
    "a token that only its own config lists": (
        {TOKENIZER: DECODER},
        {TOKENIZER: {"eos_token": "</s>"}},
        ("eos", "changed", "finding", "tokenizer 2 </s>", "tokenizer unknown id </s>"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_token_has_a_row_with_each_place(name: str, tmp_path: Path) -> None:
    before, after, expected = CASES[name]
    for side, files in (("original", before), ("exported", after)):
        (tmp_path / side).mkdir()
        for file, content in files.items():
            (tmp_path / side / file).write_text(json.dumps(content))
    (row,) = list_special_ids(open_exported(tmp_path / "original", tmp_path / "exported"))
    assert (row.name, row.fate, row.judgement, row.before, row.after) == expected
