"""What a Hub says about a repository, believed only as far as it makes sense."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.hub.repository import RemoteFile, check_model_id, is_commit, is_safe_path, parse_repository

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["gpt2", "owner/name", "HuggingFaceTB/SmolLM2-135M", "a/b.c_d-e", "0/1"])
def test_ids_of_the_hub(name: str) -> None:
    assert check_model_id(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/b/c", "../x", "a/..", "a/b?x=1", "a/b#x", "a b/c", ".a/b", "a/b\n", "a--b/c", "a/" + "b" * 97, "é/b"],
)
def test_anything_else_is_no_id(name: str) -> None:
    with pytest.raises(RequestError, match="is not a Hub model id") as refused:
        check_model_id(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "path", ["config.json", "a/b/c.safetensors", "onnx/.gitkeep", "model-00001-of-00002.safetensors"]
)
def test_safe_names(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/./b",
        "a/",
        "./a",
        "a\\b",
        "C:x",
        "a\0",
        "a\nb",
        "x" * 501,
    ],
)
def test_names_that_could_lead_anywhere_else(path: str) -> None:
    assert not is_safe_path(path)


def test_only_a_full_commit_is_a_commit() -> None:
    assert is_commit(SHA)
    assert not any(is_commit(text) for text in (None, "main", SHA[:7], SHA.upper(), SHA + "0"))


def test_content_is_matched_by_the_digest_that_is_given() -> None:
    content = b"hello\n"
    lfs = RemoteFile("a", 6, blob_id="0" * 40, sha256=hashlib.sha256(content).hexdigest())
    plain = RemoteFile("a", 6, blob_id="ce013625030ba8dba906f756967f9e9ca394464a")  # git hash-object
    assert lfs.matches(content)
    assert plain.matches(content)
    assert RemoteFile("a", 6).matches(content)
    assert not any(file.matches(b"hellO\n") for file in (lfs, plain))
    assert not any(file.matches(b"hello") for file in (lfs, plain, RemoteFile("a", 6)))


def listing(**changes: Any) -> bytes:
    answer = {"sha": SHA, "siblings": [{"rfilename": "a.json", "size": 3, "blobId": "0" * 40}], **changes}
    return json.dumps(answer).encode()


def test_unsafe_names_are_not_there() -> None:
    siblings = [{"rfilename": name, "size": 1} for name in ("../x", "a.json")]
    assert list(parse_repository(listing(siblings=siblings), "o/m", what="x").files) == ["a.json"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        listing(sha="main"),
        listing(sha=None),
        listing(siblings=None),
        listing(siblings=[3]),
        listing(siblings=[{"rfilename": "a"}]),
        listing(siblings=[{"rfilename": 1, "size": 1}]),
        listing(siblings=[{"rfilename": "a", "size": -1}]),
        listing(siblings=[{"rfilename": "a", "size": True}]),
        listing(siblings=[{"rfilename": "a", "size": 2**60}]),
        listing(siblings=[{"rfilename": "a", "size": 1, "blobId": "../../x"}]),
        listing(siblings=[{"rfilename": "a", "size": 1, "lfs": {"sha256": "zz"}}]),
        listing(siblings=[{"rfilename": "a", "size": 1, "lfs": 3}]),
    ],
)
def test_nonsense_is_one_line(body: bytes) -> None:
    with pytest.raises(InfrastructureError) as refused:
        parse_repository(body, "o/m", what="http://hub/api")
    assert str(refused.value).startswith("http://hub/api: ")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_listed() -> None:
    with pytest.raises(InfrastructureError, match="o/m@01234567 b: the repository has no such file"):
        parse_repository(listing(), "o/m", what="x").get_file("b")
