from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ci.subjects.unconverted import link_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_files_are_linked_at_the_target(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "nested").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "nested" / "weights").write_bytes(b"1234")
    result = link_checkpoint(source, target)
    assert (result.files, result.bytes_written) == (("config.json", "nested/weights"), 6)
    assert (target / "config.json").samefile(source / "config.json")


def test_where_no_link_can_be_made_the_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    link_checkpoint(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "{}"
    assert not (tmp_path / "target" / "config.json").samefile(tmp_path / "source" / "config.json")
