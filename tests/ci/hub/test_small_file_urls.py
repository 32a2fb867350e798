"""The address of one small file tells those of others, and only of files like it."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from ci.hub.repository import RemoteFile
from ci.hub.small_file_urls import SmallFileUrls

ONE, OTHER = "1" * 40, "2" * 40


def address(path: str, blob: str) -> str:
    """Return an address as the Hub gave it (huggingface/swift-transformers#209)."""
    query = urlencode({f"/owner/model/resolve/main/{path}": "", "etag": f'"{blob}"'})
    return f"https://huggingface.co/api/resolve-cache/models/owner/model/{'a' * 40}/{path}?{query}"


CONFIG = RemoteFile("config.json", 10, ONE)


@pytest.mark.parametrize("path", ["generation_config.json", "tokenizer.model.v3", "chat_template.jinja", "config.json"])
def test_other_files_have_the_same_address_but_for_name_and_digest(path: str) -> None:
    urls = SmallFileUrls()
    assert urls.guess(RemoteFile(path, 20, OTHER)) is None
    urls.learn(CONFIG, address("config.json", ONE))
    assert urls.guess(RemoteFile(path, 20, OTHER)) == address(path, OTHER)


def test_nothing_is_guessed_of_files_in_lfs_in_folders_or_without_digest() -> None:
    urls = SmallFileUrls()
    urls.learn(CONFIG, address("config.json", ONE))
    lfs = RemoteFile("tokenizer.json", 20, OTHER, "3" * 64)
    for file in (lfs, RemoteFile("a/b.json", 20, OTHER), RemoteFile("vocab.json", 20), RemoteFile("é.json", 9, OTHER)):
        assert urls.guess(file) is None


def test_an_address_that_does_not_name_the_file_tells_nothing() -> None:
    urls = SmallFileUrls()
    urls.learn(CONFIG, f"https://huggingface.co/blobs/{ONE}?name=/config.json")
    assert urls.guess(RemoteFile("vocab.json", 20, OTHER)) is None


def test_after_a_wrong_guess_there_is_no_other() -> None:
    urls = SmallFileUrls()
    urls.learn(CONFIG, address("config.json", ONE))
    urls.stop_guessing()
    urls.learn(CONFIG, address("config.json", ONE))
    assert urls.guess(RemoteFile("vocab.json", 20, OTHER)) is None
