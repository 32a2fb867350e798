"""Small files of other checkpoints: only what has the listed digest, and nothing that is no file."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from ci.hub.known_files import find_known_file
from ci.hub.repository import RemoteFile

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"a tokenizer"
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def put(checkpoints: Path, name: str, content: bytes) -> Path:
    path = checkpoints / name / "tokenizer.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_file_with_the_listed_digest_is_found_in_any_checkpoint(tmp_path: Path) -> None:
    put(tmp_path, "one", b"other bytes")
    put(tmp_path, "two", CONTENT)
    put(tmp_path, "three", CONTENT + b"\n")
    for listed in (RemoteFile("tokenizer.json", len(CONTENT), BLOB), RemoteFile("tokenizer.json", 11, None, SHA256)):
        assert find_known_file(tmp_path, listed) == CONTENT
    assert find_known_file(tmp_path, RemoteFile("tokenizer.json", 11, "0" * 40)) is None
    assert find_known_file(tmp_path, RemoteFile("tokenizer.json", 12, BLOB)) is None
    assert find_known_file(tmp_path, RemoteFile("vocab.json", 11, BLOB)) is None


def test_a_file_without_a_listed_digest_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "one", CONTENT)
    assert find_known_file(tmp_path, RemoteFile("tokenizer.json", len(CONTENT))) is None


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    listed = RemoteFile("tokenizer.json", len(CONTENT), BLOB)
    assert find_known_file(tmp_path / "none", listed) is None
    (tmp_path / "outside").write_bytes(CONTENT)
    path = put(tmp_path / "store", "one", CONTENT)
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    assert find_known_file(tmp_path / "store", listed) is None
    path.unlink()
    os.mkfifo(path)
    assert find_known_file(tmp_path / "store", listed) is None
    path.unlink()
    path.mkdir()
    assert find_known_file(tmp_path / "store", listed) is None
