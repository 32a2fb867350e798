"""Addresses of small files that the Hub's redirect of another one tells.

Since 2025 `/{model}/resolve/{commit}/{file}` answers 307 for a file in git, to
`/api/resolve-cache/models/{model}/{commit}/{file}?…={file}=&etag="{git blob id}"`
(https://github.com/huggingface/swift-transformers/pull/209). Each such answer is a request that rate limits count.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from ci.hub.repository import RemoteFile


class SmallFileUrls:
    """The pattern of one redirect, for other files of the same commit. Safe for many threads."""

    def __init__(self) -> None:
        self._known: tuple[RemoteFile, str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def learn(self, file: RemoteFile, url: str) -> None:
        """Note where a file's redirect led, if the address names the file."""
        named = url.partition("?")[0].endswith(f"/{file.path}")
        with self._lock:
            if named and file.blob_id and _is_plain(file) and self._known is None and not self._stopped:
                self._known = (file, url)

    def guess(self, file: RemoteFile) -> str | None:
        """Return the address of another file; None before any redirect, or where guesses were wrong."""
        with self._lock:
            if self._known is None or file.sha256 or not file.blob_id or not _is_plain(file):
                return None
            known, url = self._known
        path, _, query = url.partition("?")
        query = query.replace(str(known.blob_id), file.blob_id).replace(known.path, file.path)
        return f"{path.removesuffix(known.path)}{file.path}{'?' if query else ''}{query}"

    def stop_guessing(self) -> None:
        """Ask for each file's address from now on."""
        with self._lock:
            self._known, self._stopped = None, True


def _is_plain(file: RemoteFile) -> bool:
    """Return whether a name is the same within a URL's path and its query."""
    return quote(file.path, safe="") == file.path
