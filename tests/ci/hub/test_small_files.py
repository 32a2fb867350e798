"""Small files by name: what a tokenizer needs, and never a pattern for everything."""

from __future__ import annotations

import pytest

from ci.companion_files import MAX_NAMED_TEMPLATES
from ci.hub.small_files import describe_left_out, select_other_formats, select_small_files

LISTED = [
    *("README.md", "config.json", "generation_config.json", "merges.txt", "model.safetensors", "modeling_x.py"),
    *("special_tokens_map.json", "sub/y.py", "tokenizer.json", "tokenizer.model", "tokenizer.py"),
    *("tokenizer_config.json", "vocab.json"),
]


def select(names: list[str], tokenizer_config: bytes = b"") -> list[str]:
    return sorted([*select_small_files(names), *select_other_formats(names, lambda: tokenizer_config)])


def test_a_whole_tokenizer_is_two_files() -> None:
    assert select(LISTED, b'{"added_tokens_decoder": {}}') == [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b'{"model_max_length": 1}'])
def test_what_a_tokenizer_leaves_to_other_files_is_fetched_too(config: bytes) -> None:
    assert select(LISTED, config) == [
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    ]


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_a_config_that_is_not_needed_is_not_read(missing: str) -> None:
    names = [name for name in LISTED if name != missing]
    assert "merges.txt" in select_other_formats(names, lambda: pytest.fail("it was read"))
    assert select_other_formats(["tokenizer.json", "tokenizer_config.json"], lambda: pytest.fail("it was read")) == []


@pytest.mark.parametrize(
    "name",
    [
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        *("chat_template.jinja", "chat_template.json"),
    ],
)
def test_what_a_processor_reads_comes_along(name: str) -> None:
    assert name in select([name, "tokenizer.json"], b"{}")


def test_named_chat_templates_come_along_up_to_a_number() -> None:
    """Each is a request; what is left out is told."""
    few = [f"additional_chat_templates/{name}.jinja" for name in ("rag", "tool_use")]
    assert select([*few, "README.md"]) == few
    assert describe_left_out(few) == ()
    many = [f"additional_chat_templates/{number:03}.jinja" for number in range(400)]
    assert select(many) == many[:MAX_NAMED_TEMPLATES]
    assert describe_left_out(many) == (
        f"additional_chat_templates/ has 400 chat templates, the first {MAX_NAMED_TEMPLATES} are kept",
    )


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model", "qwen.tiktoken", "tekken.json"])
def test_other_tokenizers(name: str) -> None:
    assert select([name]) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "hub-tests.json",
        ".parts.jsonl",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "x.model.py",
        "sub/chat_template.jinja",
        "additional_chat_templates/sub/x.jinja",
        "additional_chat_templates/x.py",
        "additional_chat_templates/odd\u200b.jinja",
        "sub/additional_chat_templates/x.jinja",
    ],
)
def test_nothing_else(name: str) -> None:
    assert select([name]) == []
