"""The table of what an export keeps, changes, drops and adds beside its weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ci.chat_templates.compare import EngineJudgement, TemplateJudgement
from ci.equivalence import companions
from ci.equivalence.companion_keys import MAX_KEYS
from ci.equivalence.companions import MAX_ROWS, compare_companions, count_companions
from ci.equivalence.round_trip import KeyChange
from ci.subjects.sandbox import NO_SANDBOX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.evidence import Companion

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "transformers_version": "4.57.0",
}
GENERATION = {"eos_token_id": [2, 7], "temperature": 0.6, "transformers_version": "4.57.0"}
TOKENIZER = {"added_tokens": [{"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}]}
TOKENIZER_CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
SEMANTIC = (KeyChange("rope_scaling", "semantic", 4.0, None), KeyChange("hidden_act", "semantic", "silu", "relu"))


@pytest.fixture
def original(tmp_path: Path) -> Path:
    directory = tmp_path / "original"
    directory.mkdir()
    write(directory, "config.json", CONFIG)
    write(directory, "generation_config.json", GENERATION)
    write(directory, "tokenizer.json", TOKENIZER)
    write(directory, "tokenizer_config.json", TOKENIZER_CONFIG)
    write(directory, "preprocessor_config.json", {"size": 3})
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.zeros(3)}, directory / "model.safetensors")
    return directory


def write(directory: Path, name: str, content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


def edit(name: str, *gone: str, **changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text()) | changes
        write(directory, name, {key: value for key, value in content.items() if key not in gone})

    return change


def store_as(dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda d: save_file({"a": torch.zeros(2, dtype=dtype), "b": torch.zeros(3)}, d / "model.safetensors")


def rewrite_template(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{- messages }}")


def show(row: Companion) -> tuple[str, ...]:
    return row.part, row.name, row.fate, row.judgement, row.before, row.after


def compare(
    original: Path, exported: Path, changes: tuple[KeyChange, ...] = ()
) -> tuple[list[Companion], tuple[str, ...]]:
    rows, findings = compare_companions(original, exported, changes, NO_SANDBOX)
    assert bool(findings) == any(row.judgement == "finding" for row in rows), "the table and the warnings agree"
    return list(rows), findings


@pytest.fixture(autouse=True)
def _one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge no template for real: `ci.chat_templates` has its own tests."""
    judged = TemplateJudgement((EngineJudgement("Jinja2", 200, 150, 50),))
    monkeypatch.setattr(companions, "judge_rewritten_templates", lambda *_: {"default": judged})


def test_a_copy_keeps_everything(original: Path, tmp_path: Path) -> None:
    rows, findings = compare(original, shutil.copytree(original, tmp_path / "exported"))
    assert findings == ()
    assert {(row.fate, row.judgement) for row in rows} == {("kept", "equal")}
    names = {(row.part, row.name) for row in rows}
    assert names >= {
        ("config.json", "rope_scaling.factor"),
        ("generation_config.json", "temperature"),
        ("tokenizer files", "tokenizer.json"),
        ("processor files", "preprocessor_config.json"),
        ("chat template", "default"),
        ("special ids", "bos"),
        ("special ids", "eos"),
        ("dtype", "declared"),
        ("dtype", "stored"),
    }
    assert count_companions(rows) == {
        "companions.kept": float(len(rows)),
        **{f"companions.{fate}": 0.0 for fate in ("changed", "dropped", "added")},
    }


PLANTED: dict[str, tuple[Callable[[Path], None], tuple[KeyChange, ...], tuple[str, ...]]] = {
    "a key that the forward pass reads": (
        edit("config.json", hidden_act="relu"),
        SEMANTIC[1:],
        ("config.json", "hidden_act", "changed", "defect", "silu", "relu"),
    ),
    "a section that is gone": (
        edit("config.json", "rope_scaling"),
        SEMANTIC[:1],
        ("config.json", "rope_scaling.factor", "dropped", "defect", "4.0", ""),
    ),
    "a key of a section": (
        edit("config.json", rope_scaling={"rope_type": "yarn", "factor": 8.0}),
        SEMANTIC[:1],
        ("config.json", "rope_scaling.factor", "changed", "defect", "4.0", "8.0"),
    ),
    "another default that no file says": (
        lambda _: None,
        SEMANTIC[1:],
        ("config.json", "hidden_act", "changed", "defect", "silu", "relu"),
    ),
    "the longest prompt": (
        edit("config.json", max_position_embeddings=2048),
        (),
        ("config.json", "max_position_embeddings", "changed", "finding", "512", "2048"),
    ),
    "the architecture": (
        edit("config.json", "architectures"),
        (),
        ("config.json", "architectures", "dropped", "finding", "['LlamaForCausalLM']", ""),
    ),
    "the end of text": (
        edit("config.json", eos_token_id=None),
        (),
        (
            "special ids",
            "eos",
            "changed",
            "finding",
            "config 2, generation_config [2, 7], tokenizer 2 </s>",
            "generation_config [2, 7], tokenizer 2 </s>",
        ),
    ),
    "the end of text when it generates": (
        edit("generation_config.json", eos_token_id=2),
        (),
        (
            "special ids",
            "eos",
            "changed",
            "finding",
            "config 2, generation_config [2, 7], tokenizer 2 </s>",
            "config 2, generation_config 2, tokenizer 2 </s>",
        ),
    ),
    "the end of text of the tokenizer": (
        edit("tokenizer_config.json", eos_token="<s>"),
        (),
        (
            "special ids",
            "eos",
            "changed",
            "finding",
            "config 2, generation_config [2, 7], tokenizer 2 </s>",
            "config 2, generation_config [2, 7], tokenizer 1 <s>",
        ),
    ),
    "the id of the end of text": (
        edit("tokenizer.json", added_tokens=[{"id": 1, "content": "<s>"}, {"id": 3, "content": "</s>"}]),
        (),
        (
            "special ids",
            "eos",
            "changed",
            "finding",
            "config 2, generation_config [2, 7], tokenizer 2 </s>",
            "config 2, generation_config [2, 7], tokenizer 3 </s>",
        ),
    ),
    "the temperature": (
        edit("generation_config.json", "temperature"),
        (),
        ("generation_config.json", "temperature", "dropped", "finding", "0.6", ""),
    ),
    "the generation config": (
        lambda d: (d / "generation_config.json").unlink(),
        (),
        ("generation_config.json", "temperature", "dropped", "finding", "0.6", ""),
    ),
    "one byte of the tokenizer": (
        lambda d: (d / "tokenizer.json").write_bytes((d / "tokenizer.json").read_bytes() + b"\n"),  # type: ignore[dict-item]
        (),
        ("tokenizer files", "tokenizer.json", "changed", "finding", "77 bytes", "78 bytes"),
    ),
    "the processor": (
        lambda d: (d / "preprocessor_config.json").unlink(),
        (),
        ("processor files", "preprocessor_config.json", "dropped", "finding", "11 bytes", ""),
    ),
    "the chat template": (
        lambda d: (d / "chat_template.jinja").unlink(),
        (),
        ("chat template", "default", "dropped", "finding", "14 characters", ""),
    ),
    "a chat template that one engine judged": (
        rewrite_template,
        (),
        ("chat template", "default", "changed", "finding", "14 characters", "15 characters"),
    ),
    "the declared dtype": (
        edit("config.json", torch_dtype="float32"),
        (),
        ("dtype", "declared", "changed", "finding", "bfloat16", "float32"),
    ),
    "the stored dtype": (
        store_as(torch.float32),
        (),
        ("dtype", "stored", "changed", "finding", "BF16, F32", "F32"),
    ),
}
"""A loss that was planted in the export, what transformers reads otherwise, and the row that must show it."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_loss_is_in_its_row(name: str, original: Path, tmp_path: Path) -> None:
    change, keys, expected = PLANTED[name]
    exported = shutil.copytree(original, tmp_path / "exported")
    change(exported)
    rows, findings = compare(original, exported, keys)
    assert expected in [show(row) for row in rows]
    assert all(row.reason or row.part != "config.json" for row in rows if row.judgement in ("finding", "defect"))
    assert findings or expected[3] == "defect"


PERMITTED: dict[str, tuple[Callable[[Path], None], tuple[KeyChange, ...], tuple[str, ...], str]] = {
    "a newer name of the dtype": (
        edit("config.json", "torch_dtype", dtype="bfloat16"),
        (),
        ("dtype", "declared", "kept", "equal", "bfloat16", "bfloat16"),
        "",
    ),
    "who wrote it": (
        edit("config.json", transformers_version="5.0"),
        (),
        ("config.json", "transformers_version", "changed", "permitted", "4.57.0", "5.0"),
        "it says who wrote the file",
    ),
    "a key in its new place": (
        edit("config.json", "rope_theta", rope_parameters={"rope_theta": 10000.0}),
        (),
        ("config.json", "rope_theta", "dropped", "permitted", "10000.0", ""),
        "transformers reads the same value",
    ),
    "a key that no forward pass reads": (
        edit("config.json", use_cache=False),
        (KeyChange("use_cache", "metadata", True, False),),
        ("config.json", "use_cache", "added", "permitted", "", "False"),
        "no forward pass of a finished model reads it",
    ),
    "null, or no key": (
        edit("config.json", "pad_token_id"),
        (),
        ("config.json", "pad_token_id", "dropped", "equal", "None", ""),
        "null is no value",
    ),
    "a tokenizer file more": (
        lambda d: write(d, "added_tokens.json", {}),
        (),
        ("tokenizer files", "added_tokens.json", "added", "permitted", "", "2 bytes"),
        "",
    ),
}


@pytest.mark.parametrize("name", PERMITTED)
def test_what_has_no_consequence_is_permitted(name: str, original: Path, tmp_path: Path) -> None:
    change, keys, expected, reason = PERMITTED[name]
    exported = shutil.copytree(original, tmp_path / "exported")
    change(exported)
    rows, findings = compare(original, exported, keys)
    assert findings == ()
    assert (expected, reason) in [(show(row), row.reason) for row in rows]


def test_a_template_that_two_engines_hold_is_permitted(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = TemplateJudgement((EngineJudgement("one", 200, 150, 50), EngineJudgement("two", 200, 160, 40)))
    monkeypatch.setattr(companions, "judge_rewritten_templates", lambda *_: {"default": held})
    exported = shutil.copytree(original, tmp_path / "exported")
    rewrite_template(exported)
    rows, findings = compare(original, exported)
    (row,) = (row for row in rows if row.part == "chat template")
    assert (row.fate, row.judgement, findings) == ("changed", "permitted", ())
    assert row.reason.startswith("one: equal on 200 conversations (150 rendered, 50 refused by both); two: equal")


def test_a_moved_template_is_kept(original: Path, tmp_path: Path) -> None:
    exported = shutil.copytree(original, tmp_path / "exported")
    (original / "chat_template.jinja").unlink()
    for directory in (original, exported):
        write(directory, "chat_template.json", {"chat_template": "{{ old }}"})
    (original / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (exported / "chat_template.json").unlink()
    rows, findings = compare(original, exported)
    first, second = (row for row in rows if row.part == "chat template")
    assert (first.name, first.fate, first.judgement) == ("default", "added", "permitted")
    assert (second.name, second.fate) == ("default of the processor", "kept")
    assert second.reason == "it moved from chat_template.json to chat_template.jinja"
    assert findings == ()


def test_a_template_that_moves_where_no_tokenizer_looks_is_lost(original: Path, tmp_path: Path) -> None:
    exported = shutil.copytree(original, tmp_path / "exported")
    (exported / "chat_template.jinja").unlink()
    write(exported, "chat_template.json", {"chat_template": "{{ messages }}"})
    rows, findings = compare(original, exported)
    shown = {row.name: (row.fate, row.judgement) for row in rows if row.part == "chat template"}
    assert shown == {"default": ("dropped", "finding"), "default of the processor": ("kept", "equal")}
    assert findings == ("export: the chat template not exported",)


NAMED = ("additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja")


def test_each_named_template_has_a_row(original: Path, tmp_path: Path) -> None:
    (original / NAMED[0]).parent.mkdir()
    for name in NAMED:
        (original / name).write_text("{{ messages }}")
    exported = shutil.copytree(original, tmp_path / "exported")
    assert compare(original, exported)[1] == ()
    (exported / NAMED[0]).unlink()
    (exported / NAMED[1]).write_text("{{ other }}")
    rows, findings = compare(original, exported)
    shown = {row.name: (row.fate, row.judgement) for row in rows if row.part == "chat template"}
    assert shown == {"tool_use": ("dropped", "finding"), "rag": ("changed", "finding"), "default": ("kept", "equal")}
    assert findings == ("export: the chat template rag changed", "export: the chat template tool_use not exported")


def nest(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        (directory / "generation_config.json").unlink()
        make(directory / "generation_config.json")

    return change


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "JSON that is nested deeply": (
        lambda d: (d / "generation_config.json").write_text(nest(100_000)),
        "nested too deeply",
    ),
    "JSON that is nested": (lambda d: (d / "generation_config.json").write_text(nest(80)), "nested deeper than 64"),
    "no UTF-8": (lambda d: (d / "generation_config.json").write_bytes(b'{"a": "\xff"}'), "not a JSON object in UTF-8"),
    "a list": (lambda d: (d / "generation_config.json").write_text("[1]"), "it holds a list"),
    "a number without end": (
        lambda d: (d / "generation_config.json").write_text('{"a": ' + "1" * 5000 + "}"),
        "not a JSON object in UTF-8",
    ),
    "a link out of the export": (
        replace_by(lambda file: file.symlink_to("/etc/passwd")),
        "not a regular one",
    ),
    "a pipe": (
        replace_by(os.mkfifo),
        "not a regular one",
    ),
    "a directory": (
        replace_by(Path.mkdir),
        "not a regular one",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_finding_and_no_accident(name: str, original: Path, tmp_path: Path) -> None:
    plant, expected = HOSTILE[name]
    exported = shutil.copytree(original, tmp_path / "exported")
    plant(exported)
    rows, _ = compare(original, exported)
    (row,) = (row for row in rows if row.name == "the file")
    assert row.judgement == "finding"
    assert expected in row.after


def test_a_file_that_cannot_be_read_is_a_finding_where_the_original_has_none(original: Path, tmp_path: Path) -> None:
    (original / "generation_config.json").unlink()
    exported = shutil.copytree(original, tmp_path / "exported")
    (exported / "generation_config.json").write_text("[")
    _, findings = compare(original, exported)
    assert len(findings) == 1
    assert findings[0].startswith("export: generation_config.json changed: not a JSON object in UTF-8")


def test_links_to_the_originals_files_are_not_exported_files(original: Path, tmp_path: Path) -> None:
    exported = shutil.copytree(original, tmp_path / "exported")
    for name in ("tokenizer.json", "chat_template.jinja"):
        (exported / name).unlink()
        (exported / name).symlink_to(original / name)
    rows, findings = compare(original, exported)
    assert {row.name for row in rows if row.fate == "dropped"} >= {"tokenizer.json", "default"}
    assert "export: tokenizer.json not exported" in findings


def test_a_huge_file_is_not_parsed(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = shutil.copytree(original, tmp_path / "exported")
    with (exported / "generation_config.json").open("r+b") as file:
        file.truncate(2**40)
    rows, findings = compare(original, exported)
    (row,) = (row for row in rows if row.name == "the file")
    assert "longer than" in row.after
    assert any("generation_config.json" in finding for finding in findings)


def test_many_keys_and_long_values_are_cut_and_the_originals_are_shown(original: Path, tmp_path: Path) -> None:
    exported = shutil.copytree(original, tmp_path / "exported")
    write(exported, "config.json", {**{f"junk{i}": "x" * 1000 for i in range(5000)}, **CONFIG})
    rows, findings = compare(original, exported)
    assert findings == ()
    assert len(rows) <= MAX_ROWS
    own = [row for row in rows if row.part == "config.json"]
    assert len(own) == MAX_KEYS
    assert sum(row.fate == "kept" for row in own) == len(CONFIG) + 1
    assert max(len(row.after) for row in own) <= 120
