from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 -- pytest's fixture

from ci.subjects.written_files import list_written


def test_files_are_listed_relative_to_the_directory_with_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "weights").write_bytes(b"1234")
    (tmp_path / "config.json").write_text("{}")
    result = list_written(tmp_path, time.perf_counter() - 1)
    assert (result.files, result.bytes_written) == (("config.json", "nested/weights"), 6)
    assert 1 <= result.seconds < 60
