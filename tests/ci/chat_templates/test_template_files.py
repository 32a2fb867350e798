"""Chat templates and special tokens are read from each place where transformers looks for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.chat_templates.template_files import (
    MAX_TEMPLATE_BYTES,
    find_template_place,
    read_special_tokens,
    read_templates,
)
from ci.companion_files import CompanionDirectory

if TYPE_CHECKING:
    from pathlib import Path


def write(directory: Path, **files: Any) -> CompanionDirectory:
    for name, content in files.items():
        path = directory / name.replace("__", "/").replace("_json", ".json").replace("_jinja", ".jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return CompanionDirectory(directory)


PLACES: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "a file": ({"chat_template_jinja": "x"}, {"default": "x"}, "chat_template.jinja"),
    "the tokenizer's config": (
        {"tokenizer_config_json": {"chat_template": "x"}},
        {"default": "x"},
        "tokenizer_config.json",
    ),
    "several in the config": (
        {"tokenizer_config_json": {"chat_template": [{"name": "rag", "template": "y"}, {"name": 3}, 7]}},
        {"rag": "y"},
        "tokenizer_config.json",
    ),
    "the file goes first": (
        {"chat_template_jinja": "x", "tokenizer_config_json": {"chat_template": "old"}},
        {"default": "x"},
        "chat_template.jinja",
    ),
    "further files": (
        {"chat_template_jinja": "x", "additional_chat_templates__tool_use_jinja": "t"},
        {"default": "x", "tool_use": "t"},
        "chat_template.jinja, additional_chat_templates/tool_use.jinja",
    ),
    "an old processor's": ({"chat_template_json": {"chat_template": "x"}}, {"default": "x"}, "chat_template.json"),
    "none": ({"tokenizer_config_json": {"chat_template": None}}, {}, ""),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_template_is_found_in_its_place(place: str, tmp_path: Path) -> None:
    files, expected, where = PLACES[place]
    directory = write(tmp_path, **files)
    assert read_templates(directory) == expected
    assert find_template_place(directory) == where


def test_special_tokens_are_texts_or_objects(tmp_path: Path) -> None:
    directory = write(
        tmp_path,
        special_tokens_map_json={"bos_token": "<old>", "pad_token": "<pad>"},
        tokenizer_config_json={"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": None},
    )
    assert read_special_tokens(directory) == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def test_hostile_template_files_are_read_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")
    assert read_templates(CompanionDirectory(tmp_path)) == {"default": "\ufffd\ufffd{{ x }}"}
    (tmp_path / "chat_template.jinja").write_bytes(b"a" * (MAX_TEMPLATE_BYTES + 1))
    (text,) = read_templates(CompanionDirectory(tmp_path)).values()
    assert "longer than" in text
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "chat_template.jinja").symlink_to(tmp_path / "secret")
    assert read_templates(CompanionDirectory(tmp_path)) == {}
