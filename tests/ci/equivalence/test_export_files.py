"""What an export loses beside its weights is found, each in one line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.export_files import compare_export_files, read_stop_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
GENERATION = {"eos_token_id": [2, 7], "temperature": 0.6, "transformers_version": "4.57.0", "_from_model_config": True}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    directory = tmp_path / "original"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "generation_config.json").write_text(json.dumps(GENERATION))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (directory / "preprocessor_config.json").write_text("{}")
    return directory


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text()) | changes
        (directory / name).write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))

    return change


def remove(*names: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return change


def move_template(directory: Path) -> None:
    edit("tokenizer_config.json", chat_template="gone")(directory)
    (directory / "chat_template.jinja").write_text("{{ messages }}")


CHANGES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "nothing": (lambda _: None, []),
    "who wrote the generation config": (
        edit("generation_config.json", transformers_version="5.0", _from_model_config="gone"),
        [],
    ),
    "an eos id that the generation config overrides": (
        edit("config.json", eos_token_id=9),
        ["export: eos_token_id of config.json changed: 9, it was 2"],
    ),
    "no generation config": (
        remove("generation_config.json"),
        [
            "export: stop ids changed: generation stops at 2, it stopped at 2, 7",
            "export: generation_config.json not exported",
        ],
    ),
    "no stop at all": (
        lambda d: (remove("generation_config.json")(d), edit("config.json", eos_token_id="gone")(d)),  # type: ignore[dict-item]
        [
            "export: stop ids not exported: generation never stops, it stopped at 2, 7",
            "export: eos_token_id of config.json not exported: it was 2",
            "export: generation_config.json not exported",
        ],
    ),
    "another temperature": (
        edit("generation_config.json", temperature=1.0),
        ["export: generation_config.json changed: temperature"],
    ),
    "no tokenizer": (remove("tokenizer.json"), ["export: tokenizer.json not exported"]),
    "a processor that changed": (
        edit("preprocessor_config.json", size=3),
        ["export: preprocessor_config.json changed"],
    ),
    "another template": (
        edit("tokenizer_config.json", chat_template="{{ other }}"),
        ["export: the chat template changed", "export: tokenizer_config.json changed"],
    ),
    "the same template in its new place": (move_template, ["export: tokenizer_config.json changed"]),
    "a config that cannot be read": (
        lambda d: (d / "config.json").write_text("{"),  # type: ignore[dict-item]
        [
            "export: bos_token_id of config.json not exported: it was 1",
            "export: eos_token_id of config.json not exported: it was 2",
        ],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_loss_is_one_line(original: Path, tmp_path: Path, name: str) -> None:
    change, expected = CHANGES[name]
    exported = shutil.copytree(original, tmp_path / "exported")
    change(exported)
    assert [str(finding) for finding in compare_export_files(original, exported)] == expected


def test_what_the_original_does_not_have_is_not_missed(tmp_path: Path) -> None:
    for name in ("original", "exported"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert compare_export_files(tmp_path / "original", tmp_path / "exported") == ()


SEEN: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "the text's own length": (
        {"text_config": {"max_position_embeddings": 131072}},
        {"text_config": {"max_position_embeddings": 2048}},
        ["export: text_config.max_position_embeddings of config.json changed: 2048, it was 131072"],
    ),
    "the ids of the whole, where the text says others": (
        {"eos_token_id": 257},
        {"text_config": {"eos_token_id": 2}},
        [
            "export: stop ids changed: generation stops at 2, it stopped at 257",
            "export: eos_token_id of config.json not exported: it was 257",
        ],
    ),
    "the text's ids": (
        {"text_config": {"eos_token_id": 2}},
        {"text_config": {"eos_token_id": 2}},
        [],
    ),
    "a section that is none": (
        {"text_config": {"eos_token_id": 2}},
        {"text_config": 7},
        [
            "export: stop ids not exported: generation never stops, it stopped at 2",
            "export: text_config.eos_token_id of config.json not exported: it was 2",
        ],
    ),
}


@pytest.mark.parametrize("case", SEEN)
def test_the_text_part_of_a_model_that_sees_is_read_too(case: str, tmp_path: Path) -> None:
    before, after, expected = SEEN[case]
    for name, config in (("original", before), ("exported", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert [str(one) for one in compare_export_files(tmp_path / "original", tmp_path / "exported")] == expected


@pytest.mark.parametrize(
    "config", [config for _, config, _ in SEEN.values() if isinstance(config["text_config"], dict)]
)
def test_stop_ids_are_those_that_transformers_takes(config: dict[str, Any], tmp_path: Path) -> None:
    from transformers import GenerationConfig

    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = GenerationConfig.from_model_config(config).eos_token_id
    assert read_stop_ids(tmp_path) == (frozenset() if theirs is None else {theirs})
