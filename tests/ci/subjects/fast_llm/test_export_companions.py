"""What real exports of Fast-LLM keep beside the weights: the table is right, whatever it says. `-s` prints it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ci.equivalence import round_trip
from ci.equivalence.companions import compare_companions
from ci.equivalence.inputs import read_published_dtype
from ci.subjects.base import ConvertRequest, ExportRequest
from ci.subjects.sandbox import NO_SANDBOX
from tests.standin.models import repository

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject

MODELS = {
    "llama": "stand-in/llama",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "mixtral": "stand-in/mixtral-head-dim",
    "qwen2": "Qwen/Qwen2.5-0.5B",
}
pytestmark = pytest.mark.long


@pytest.mark.parametrize("checkpoint_format", MODELS)
def test_the_table_says_what_the_files_say(checkpoint_format: str, fast_llm: Subject, tmp_path: Path) -> None:
    original, exported = repository(MODELS[checkpoint_format]), tmp_path / "exported"
    before = json.loads((original / "config.json").read_text())
    fast_llm.convert(ConvertRequest(str(original), str(tmp_path / "converted"), checkpoint_format))
    dtype = read_published_dtype(before)
    fast_llm.export(ExportRequest(str(tmp_path / "converted"), str(exported), checkpoint_format, dtype=dtype))
    after = json.loads((exported / "config.json").read_text())
    resolved = (round_trip.resolve_config(directory) for directory in (original, exported))
    rows, findings = compare_companions(original, exported, round_trip.compare_configs(*resolved), NO_SANDBOX)
    print("", *findings, sep="\n")
    config = {row.name: row for row in rows if row.part == "config.json"}
    for key in {*before, *after}:
        if not isinstance(before.get(key, after.get(key)), dict):
            fates = {(True, False): "dropped", (False, True): "added"}
            fate = fates.get((key in before, key in after), "kept" if before.get(key) == after.get(key) else "changed")
            assert config[key].fate == fate, key
    files = {row.name: row.fate for row in rows if row.part == "tokenizer files"}
    assert files == {name: "kept" if (exported / name).is_file() else "dropped" for name in files}
    assert len(files) == 3
    assert not [row for row in rows if row.judgement == "defect"], "the forward pass's keys come back"
    assert bool(findings) == any(row.judgement == "finding" for row in rows)
