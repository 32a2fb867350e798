from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.models import HubModel
from ci.subjects.hugging_face.code_source import ModelCodeSource, find_code_source, hash_code

if TYPE_CHECKING:
    from pathlib import Path

BESIDE = HubModel("own", "o/own", "llama", trust_remote_code=True, code_environment="hf-5-14", code_path="models/own")


def test_the_hash_is_of_names_and_contents_of_python_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    first = hash_code(tmp_path)
    (tmp_path / "notes.txt").write_text("2")
    assert hash_code(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert hash_code(tmp_path) != first
    assert f"(sha256 {hash_code(tmp_path)[:12]})" in str(ModelCodeSource(tmp_path, "somebody's"))


def test_the_report_says_whose_code_it_is(tmp_path: Path) -> None:
    place = tmp_path / "checkout" / "models" / "own"
    place.mkdir(parents=True)
    (place / "modeling_own.py").write_text("")
    beside = find_code_source(BESIDE, (tmp_path, tmp_path / "checkout"), "abc")
    assert (beside.directory, beside.origin) == (place, "the subject's own checkout at abc, models/own")


def test_code_that_was_fetched_is_the_hubs(tmp_path: Path) -> None:
    own = HubModel("own", "o/own", "llama", trust_remote_code=True, code_environment="e", code_revision="a" * 40)
    source = find_code_source(own, (tmp_path,), "abc", tmp_path)
    assert (source.directory, source.origin) == (tmp_path, f"o/own on the Hub at {'a' * 40}")


def test_code_that_is_nowhere_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"code_path models/own: no checkout of the subject has it; name one by"):
        find_code_source(BESIDE, (tmp_path,), None)
