"""What a store's directory of code must hold, and which manifests are none."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError
from ci.hub.code_manifest import (
    MAX_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    find_code,
    find_code_problems,
    parse_code_manifest,
)
from ci.hub.store_paths import CODE_MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

MODEL, COMMIT = "owner/model", "0123456789" * 4


def entry(size: int = 1, sha256: str | None = "0" * 64) -> dict[str, Any]:
    return {"size": size, "sha256": sha256}


def manifest(files: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"model_id": MODEL, "commit": COMMIT, "files": files, **changes}).encode()


def store_code(root: Path, **texts: str) -> Path:
    directory = root / "code" / "owner--model" / COMMIT
    directory.mkdir(parents=True)
    for name, text in texts.items():
        (directory / f"{name}.py").write_text(text)
    files = {f"{name}.py": entry(len(t), hashlib.sha256(t.encode()).hexdigest()) for name, t in texts.items()}
    (directory / CODE_MANIFEST).write_bytes(manifest(files))
    return directory


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        manifest({}),
        manifest({"a.py": entry()}, extra=1),
        manifest({"a.py": entry()}, model_id="other/model"),
        manifest({"a.py": entry()}, commit="1" * 40),
        manifest({"../a.py": entry()}),
        manifest({"a.txt": entry()}),
        manifest({"a.py": entry(sha256=None)}),
        manifest({"a.py": entry(-1)}),
        manifest({"a.py": entry(MAX_FILE_BYTES + 1)}),
        manifest({f"a{number}.py": entry(MAX_BYTES // 4) for number in range(5)}),
        manifest({f"a{number}.py": entry() for number in range(MAX_FILES + 1)}),
    ],
)
def test_what_is_no_manifest_of_the_commit(content: bytes) -> None:
    with pytest.raises(InfrastructureError, match=r"^it: "):
        parse_code_manifest(content, MODEL, COMMIT, what="it")


def test_the_digest_is_of_the_content_and_not_of_its_order() -> None:
    one, two = entry(1), entry(2)
    first = parse_code_manifest(manifest({"a.py": one, "b.py": two}), MODEL, COMMIT, what="it")
    second = parse_code_manifest(manifest({"b.py": two, "a.py": one}), MODEL, COMMIT, what="it")
    other = parse_code_manifest(manifest({"a.py": one, "b.py": one}), MODEL, COMMIT, what="it")
    assert first.digest == second.digest != other.digest


def test_each_damage_is_named(tmp_path: Path) -> None:
    directory = store_code(tmp_path, a="X = 1\n", b="")
    assert find_code_problems(directory) == []
    found = find_code(directory)
    assert found is not None
    assert set(found.files) == {"a.py", "b.py"}
    (directory / "a.py").write_text("X = 2\n")
    (directory / "b.py").unlink()
    (directory / "c.py").write_text("")
    assert find_code_problems(directory) == [
        "b.py is missing",
        "c.py is not in the manifest",
        "a.py has other content than the manifest says",
    ]
    assert find_code(directory) is None
    assert find_code_problems(tmp_path / "none") == ["cannot be read: No such file or directory"]
