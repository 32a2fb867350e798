"""Chat templates and special tokens are read from each place where transformers looks for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.chat_templates.template_files import (
    MAX_TEMPLATE_BYTES,
    MAX_TEMPLATES,
    FoundTemplate,
    pair_templates,
    read_processor_templates,
    read_special_tokens,
    read_tokenizer_templates,
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


OLD, NEW = "tokenizer_config.json", "chat_template.jinja"
TOOL_USE = "additional_chat_templates/tool_use.jinja"
NAMED = [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}, {"name": 3}, 7]
PLACES: dict[str, tuple[dict[str, Any], dict[str, tuple[str, str]], dict[str, tuple[str, str]]]] = {
    "a file": ({"chat_template_jinja": "x"}, {"default": ("x", NEW)}, {"default": ("x", NEW)}),
    "the tokenizer's config": ({"tokenizer_config_json": {"chat_template": "x"}}, {"default": ("x", OLD)}, {}),
    "several in the config": (
        {"tokenizer_config_json": {"chat_template": NAMED}},
        {"default": ("x", OLD), "rag": ("y", OLD)},
        {},
    ),
    "several as an object": (
        {"tokenizer_config_json": {"chat_template": {"rag": "y", "bad": 3}}},
        {"rag": ("y", OLD)},
        {},
    ),
    "the file goes first": (
        {"chat_template_jinja": "x", "tokenizer_config_json": {"chat_template": "old"}},
        {"default": ("x", NEW)},
        {"default": ("x", NEW)},
    ),
    "further files": (
        {"chat_template_jinja": "x", "additional_chat_templates__tool_use_jinja": "t"},
        {"tool_use": ("t", TOOL_USE), "default": ("x", NEW)},
        {"tool_use": ("t", TOOL_USE), "default": ("x", NEW)},
    ),
    "further files go before the config": (
        {"additional_chat_templates__tool_use_jinja": "t", "tokenizer_config_json": {"chat_template": "x"}},
        {"tool_use": ("t", TOOL_USE)},
        {"tool_use": ("t", TOOL_USE)},
    ),
    "an old processor's": (
        {"chat_template_json": {"chat_template": "x"}},
        {},
        {"default": ("x", "chat_template.json")},
    ),
    "an old processor's goes before the file": (
        {"chat_template_json": {"chat_template": "p"}, "chat_template_jinja": "x"},
        {"default": ("x", NEW)},
        {"default": ("p", "chat_template.json")},
    ),
    "a key of the processor's config": (
        {"processor_config_json": {"chat_template": "p"}, "tokenizer_config_json": {"chat_template": "x"}},
        {"default": ("x", OLD)},
        {"default": ("p", "processor_config.json")},
    ),
    "none": ({"tokenizer_config_json": {"chat_template": None}}, {}, {}),
}


def show(found: dict[str, FoundTemplate]) -> dict[str, tuple[str, str]]:
    return {name: (template.text, template.place) for name, template in found.items()}


@pytest.mark.parametrize("place", PLACES)
def test_a_template_is_found_in_its_place(place: str, tmp_path: Path) -> None:
    files, tokenizer, processor = PLACES[place]
    directory = write(tmp_path, **files)
    assert show(read_tokenizer_templates(directory)) == tokenizer
    assert show(read_processor_templates(directory)) == processor


@pytest.mark.parametrize("place", ["a file", "several in the config", "further files", "none"])
def test_a_tokenizer_finds_what_transformers_finds(place: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    directory = write(tmp_path, **PLACES[place][0])
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    config = dict(directory.read_object("tokenizer_config.json"))
    if isinstance(listed := config.get("chat_template"), list):
        write(tmp_path, tokenizer_config_json={"chat_template": [item for item in listed if "template" in str(item)]})
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path).chat_template
    ours = {name: found.text for name, found in read_tokenizer_templates(directory).items()}
    assert ours == (theirs if isinstance(theirs, dict) else {"default": theirs} if theirs else {})


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # transformers leaves template files open
@pytest.mark.parametrize("place", PLACES)
def test_a_processor_finds_what_transformers_finds(place: str, tmp_path: Path) -> None:
    from transformers import ProcessorMixin

    directory = write(tmp_path, **PLACES[place][0])
    theirs = ProcessorMixin.get_processor_dict(tmp_path)[0].get("chat_template")
    ours = {name: found.text for name, found in read_processor_templates(directory).items()}
    assert ours == (theirs if isinstance(theirs, dict) else {"default": theirs} if theirs else {})


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, tuple[str | None, str | None]]]] = {
    "a named one is lost": (
        {"chat_template_jinja": "x", "additional_chat_templates__tool_use_jinja": "t"},
        {"chat_template_jinja": "x"},
        {"tool_use": ("t", None), "default": ("x", "x")},
    ),
    "named ones move into the folder": (
        {"tokenizer_config_json": {"chat_template": NAMED}},
        {"chat_template_jinja": "x", "additional_chat_templates__rag_jinja": "z"},
        {"default": ("x", "x"), "rag": ("y", "z")},
    ),
    "the processor's moves into the file": (
        {"chat_template_json": {"chat_template": "x"}},
        {"chat_template_jinja": "x"},
        {"default": (None, "x"), "default of the processor": ("x", "x")},
    ),
    "one reader's is rewritten, the other's is not": (
        {"chat_template_json": {"chat_template": "x"}, "tokenizer_config_json": {"chat_template": "x"}},
        {"chat_template_json": {"chat_template": "x"}, "tokenizer_config_json": {"chat_template": "y"}},
        {"default": ("x", "y"), "default of the processor": ("x", "x")},
    ),
    "both readers' alike are one": (
        {"chat_template_json": {"chat_template": "x"}, "tokenizer_config_json": {"chat_template": "x"}},
        {"chat_template_jinja": "x"},
        {"default": ("x", "x")},
    ),
    "only the processor has one": (
        {"chat_template_json": {"chat_template": "x"}},
        {"chat_template_json": {"chat_template": "y"}},
        {"default": ("x", "y")},
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_each_template_is_paired_by_name_and_reader(case: str, tmp_path: Path) -> None:
    before, after, expected = PAIRS[case]
    sides = []
    for name, files in (("original", before), ("exported", after)):
        (tmp_path / name).mkdir()
        sides.append(write(tmp_path / name, **files))
    pairs = pair_templates(*sides)
    texts = {name: (p.before and p.before.text, p.after and p.after.text) for name, p in pairs.items()}
    assert texts == expected
    for name, (one, other) in expected.items():
        assert pairs[name].is_kept == (one == other)
        assert pairs[name].is_rewritten == (None not in (one, other) and one != other)


def test_no_more_named_templates_are_read_than_are_fetched(tmp_path: Path) -> None:
    files = {f"additional_chat_templates__t{number:02}_jinja": "t" for number in range(MAX_TEMPLATES + 3)}
    assert len(read_tokenizer_templates(write(tmp_path, **files))) == MAX_TEMPLATES
    (tmp_path / "other").mkdir()
    many = [{"name": str(number), "template": "t"} for number in range(MAX_TEMPLATES + 3)]
    other = write(tmp_path / "other", tokenizer_config_json={"chat_template": many})
    assert len(read_tokenizer_templates(other)) == MAX_TEMPLATES


def test_special_tokens_are_texts_or_objects(tmp_path: Path) -> None:
    directory = write(
        tmp_path,
        special_tokens_map_json={"bos_token": "<old>", "pad_token": "<pad>"},
        tokenizer_config_json={"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": None},
    )
    assert read_special_tokens(directory) == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def test_hostile_template_files_are_read_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")
    directory = CompanionDirectory(tmp_path)
    assert show(read_tokenizer_templates(directory)) == {"default": ("\ufffd\ufffd{{ x }}", NEW)}
    (tmp_path / "chat_template.jinja").write_bytes(b"a" * (MAX_TEMPLATE_BYTES + 1))
    (found,) = read_tokenizer_templates(directory).values()
    assert "longer than" in found.text
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "chat_template.jinja").symlink_to(tmp_path / "secret")
    assert read_tokenizer_templates(directory) == {}


def test_a_folder_behind_a_link_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jinja").write_text("secret")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    export = CompanionDirectory(tmp_path / "export")
    assert read_tokenizer_templates(export) == {}
    with pytest.raises(OSError, match="behind a link"):
        export.open("additional_chat_templates/secret.jinja")
    assert read_tokenizer_templates(CompanionDirectory(tmp_path / "export", links=True)), "a store may have links"
