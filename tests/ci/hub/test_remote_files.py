"""Which addresses a remote store can have, and what its packages say of a file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ci.errors import RequestError
from ci.hub.remote_files import check_store_url, read_modified
from ci.hub.remote_store import RemoteStore


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "expected an address like s3://bucket/folder"),
        ("bucket/folder", "expected an address like s3://bucket/folder"),
        ("s3://", "expected an address like s3://bucket/folder"),
        ("simplecache::s3://bucket", "expected an address like s3://bucket/folder"),
        ("s3://key:secret@bucket/x", "credentials do not belong into the address"),
        ("s3://bucket/x?a=b", "without"),
        ("s3://bucket/../x", "without"),
        ("s3://bucket/\nx", "without"),
        ("nowhere://bucket/x", "Protocol not known"),
    ],
)
def test_addresses_that_are_refused(url: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        RemoteStore(url)
    assert "secret" not in str(refused.value)


def test_an_address_that_is_taken() -> None:
    assert check_store_url("s3://bucket/folder/") == "s3://bucket/folder"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", raise_import_error)
    with pytest.raises(RequestError, match=r"pip install 'hub-tests\[s3\]'"):
        RemoteStore("s3://bucket/x")


def raise_import_error(*_: object, **__: object) -> None:
    raise ImportError("Install s3fs to access S3")


@pytest.mark.parametrize(
    "details",
    [
        {"LastModified": datetime(2026, 11, 27, tzinfo=UTC)},
        {"updated": "2026-11-27T00:00:00+00:00"},
        {"mtime": 1795737600.0, "created": 5.0},
    ],
)
def test_each_package_says_in_its_own_way_when_a_file_was_written(details: dict[str, Any]) -> None:
    assert read_modified(details) == 1795737600.0


def test_a_place_without_times_is_refused() -> None:
    with pytest.raises(ValueError, match="does not say when"):
        read_modified({"size": 3})
