"""Companion files are copied as they are; nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.companion_files import copy_companions

if TYPE_CHECKING:
    from pathlib import Path


def test_companions_are_copied_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    companions = ("generation_config.json", "tokenizer.json", "qwen.tiktoken", "chat_template.jinja")
    for name in (*companions, "config.json", "model.safetensors", "modeling_x.py"):
        (source / name).write_text(name)
    copy_companions(source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {name: name for name in companions}
