"""The file system behind a remote store's address: fsspec's packages, and in what they differ."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ci.errors import RequestError
from ci.hub.checkpoint_files import show_name

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE_OR_ABSENT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols whose files appear only when they are written to their end; with others a draft is renamed."""
PACKAGES = {
    "s3": "hub-tests[s3]",
    "s3a": "hub-tests[s3]",
    "gs": "hub-tests[gs]",
    "gcs": "hub-tests[gs]",
    "abfs": "adlfs",
    "az": "adlfs",
}


def check_store_url(url: str) -> str:
    """Return a store's address without a final slash. Raises RequestError unless it is a plain one."""
    parts = urlsplit(url)
    shown = url.replace(parts.netloc, "…") if "@" in parts.netloc else url
    problem = ""
    if not parts.scheme or "::" in url or not (parts.netloc or parts.path.strip("/")):
        problem = "expected an address like s3://bucket/folder"
    elif "@" in parts.netloc:
        problem = "credentials do not belong into the address; give the machine an identity"
    elif parts.query or parts.fragment or not url.isprintable() or {".", ".."} & set(parts.path.split("/")):
        problem = "expected an address without '?', '#' and '..'"
    if problem:
        raise RequestError(f"store URL {show_name(shown)}: {problem}")
    return url.rstrip("/")


def open_file_system(url: str, protocol: str) -> tuple[Any, str]:
    """Return the file system and the path of an address, without a request."""
    try:
        import fsspec

        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        opened: tuple[Any, str] = fsspec.core.url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True, **options
        )
    except ImportError as error:
        package = PACKAGES.get(protocol, "the package that fsspec names")
        raise RequestError(f"{url}: {error}; install it: pip install '{package}'") from None
    except ValueError as error:
        raise RequestError(f"{url}: {error}") from None
    # gcsfs logs each failed request with its traceback; what failed in the end is raised, and becomes one line.
    logging.getLogger(type(opened[0]).__module__.partition(".")[0]).addHandler(logging.NullHandler())
    return opened


def read_modified(details: Mapping[str, Any]) -> float:
    """Return when a file was written. Each of fsspec's packages has a name and a type of its own for that."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = details.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    raise ValueError("the place does not say when a file was written")
