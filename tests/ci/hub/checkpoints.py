"""Checkpoints made by hand, put into a store without a Hub."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from ci.hub.journal import JOURNAL
from ci.hub.manifest import MANIFEST, RULES_VERSION, FileEntry, Manifest, TensorEntry, encode_manifest
from ci.hub.store_paths import CheckpointKey

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.store import Store


COMMIT = "0123456789abcdef0123456789abcdef01234567"


KEY = CheckpointKey("owner/model", COMMIT, 2)


def write_checkpoint(directory: Path, key: CheckpointKey = KEY, size: int = 4096) -> None:
    content = b"x" * size
    (directory / "model.safetensors").write_bytes(content)

    digest = hashlib.sha256(content).hexdigest()
    files = {"model.safetensors": FileEntry(size, digest)}
    manifest = Manifest(
        1,
        key.model_id,
        key.commit,
        RULES_VERSION,
        key.layers,
        5,
        False,
        size,
        sources={},
        tensors={"x": TensorEntry("U8", (size,), digest, "model.safetensors", "model.safetensors", 0, size)},
        files=files,
    )
    (directory / MANIFEST).write_bytes(encode_manifest(manifest))


def add(store: Store, key: CheckpointKey = KEY, *, size: int = 4096, used: float | None = None) -> Path:
    """A complete checkpoint, last used `used` seconds ago and held by nobody."""
    partial = store.claim_partial(key)
    assert partial is not None
    write_checkpoint(partial.path, key, size)
    path = store.finish(key, partial)
    if used is not None:
        os.utime(path / MANIFEST, (0, time.time() - used))
    return path


def leave_parts(store: Store, key: CheckpointKey = KEY) -> Path:
    """What an interrupted fetch leaves behind."""
    partial = store.claim_partial(key)
    assert partial is not None
    (partial.path / JOURNAL).write_text("{}")
    store.abandon(partial, keep=True)
    return partial.path
