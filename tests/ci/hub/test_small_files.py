"""Small files by name: what a tokenizer needs, and never a pattern for everything."""

from __future__ import annotations

import pytest

from ci.hub.small_files import select_small_files

LISTED = [
    *("README.md", "config.json", "generation_config.json", "merges.txt", "model.safetensors", "modeling_x.py"),
    *("special_tokens_map.json", "sub/y.py", "tokenizer.json", "tokenizer.model", "tokenizer.py"),
    *("tokenizer_config.json", "vocab.json"),
]


def test_a_whole_tokenizer_is_two_files() -> None:
    assert select_small_files(LISTED, b'{"added_tokens_decoder": {}}', allow_remote_code=False) == [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("config", [None, b"", b"{", b"[]", b'{"model_max_length": 1}'])
def test_what_a_tokenizer_leaves_to_other_files_is_fetched_too(config: bytes | None) -> None:
    assert select_small_files(LISTED, config, allow_remote_code=False) == [
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    ]


def test_code_only_where_it_is_allowed() -> None:
    selected = select_small_files(LISTED, b'{"added_tokens_decoder": {}}', allow_remote_code=True)
    assert [name for name in selected if name.endswith(".py")] == ["modeling_x.py", "sub/y.py", "tokenizer.py"]


@pytest.mark.parametrize(
    "name",
    [
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        *("chat_template.jinja", "chat_template.json"),
    ],
)
def test_what_a_processor_reads_comes_along(name: str) -> None:
    assert name in select_small_files([name, "tokenizer.json"], b"{}", allow_remote_code=False)


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model", "qwen.tiktoken", "tekken.json"])
def test_other_tokenizers(name: str) -> None:
    assert select_small_files([name], None, allow_remote_code=False) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "hub-tests.json",
        ".parts.jsonl",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "x.model.py",
        "sub/chat_template.jinja",
    ],
)
def test_nothing_else(name: str) -> None:
    assert select_small_files([name], None, allow_remote_code=False) == []
