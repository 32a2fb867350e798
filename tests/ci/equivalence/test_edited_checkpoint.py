from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ci.equivalence.edited_checkpoint import copy_with_config

if TYPE_CHECKING:
    from pathlib import Path


def test_weights_are_linked_and_the_config_is_new(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("model.safetensors", "generation_config.json", "modeling_x.py", "config.json", "README.md"):
        (source / name).write_text(name)
    target = copy_with_config(source, tmp_path / "below" / "target", {"a": 1})
    links = {file.name for file in target.iterdir() if file.is_symlink()}
    assert links == {"model.safetensors", "generation_config.json", "modeling_x.py"}
    assert json.loads((target / "config.json").read_text()) == {"a": 1}
    assert (source / "config.json").read_text() == "config.json"
