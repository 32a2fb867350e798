"""Companion files are copied as they are; nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.companion_files import COMPANION_FILES, copy_companions, list_files
from ci.hub.small_files import select_other_formats, select_small_files

if TYPE_CHECKING:
    from pathlib import Path

NAMED = "additional_chat_templates/rag.jinja"


def test_companions_are_copied_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    companions = ("generation_config.json", "tokenizer.json", "qwen.tiktoken", "chat_template.jinja", NAMED)
    others = (
        "config.json",
        "model.safetensors",
        "modeling_x.py",
        "sub/tokenizer.json",
        "additional_chat_templates/x.py",
    )
    for name in (*companions, *others):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    copy_companions(source, target)
    written = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert written == {name: name for name in companions}


def test_what_a_fetch_keeps_is_what_an_export_is_asked_for(tmp_path: Path) -> None:
    """One list serves both: a file that is fetched and not compared would be lost without a word."""
    names = ["video_preprocessor_config.json", "tokenizer.model.v3", "tokenizer.json", "chat_template.jinja", NAMED]
    names.append("x.py")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    kept = sorted([*select_small_files(names), *select_other_formats(names, bytes)])
    assert sorted(kept) == list(list_files(tmp_path, COMPANION_FILES)) == sorted(names[:-1])
