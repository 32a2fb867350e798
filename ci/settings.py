"""Settings from environment variables, read once by the entry points into a frozen record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ENDPOINT = "https://huggingface.co"
TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class Settings:
    """`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and the variables `HUB_TESTS_…`, with their defaults.

    `store_url` is a remote store that is read through into `cache`; with `uploads` what it lacks is written there.
    """

    cache: Path
    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    environments: Path | None = None
    store_url: str | None = None
    uploads: bool = False

    @property
    def environments_root(self) -> Path:
        """The directory of the subjects' base environments."""
        return self.environments or self.cache / "environments"


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read the settings from `environ`. Raises RequestError for an endpoint that is not a URL."""
    return Settings(
        cache=_read_cache(environ),
        endpoint=_read_endpoint(environ),
        token=environ.get("HF_TOKEN") or None,
        offline=environ.get("HF_HUB_OFFLINE", "").strip().lower() in TRUE,
        environments=Path(chosen).expanduser() if (chosen := environ.get("HUB_TESTS_ENVIRONMENTS")) else None,
        store_url=environ.get("HUB_TESTS_STORE_URL") or None,
    )


def _read_endpoint(environ: Mapping[str, str]) -> str:
    endpoint = (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"HF_ENDPOINT={endpoint[:200]}: expected a URL like {DEFAULT_ENDPOINT}")
    return endpoint


def _read_cache(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("HUB_TESTS_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("hub-tests")
