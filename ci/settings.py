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
    """`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `HUB_TESTS_CACHE`, `HUB_TESTS_ENVIRONMENTS`, with their defaults.

    `HUB_TESTS_SHARED_ENVIRONMENTS`: a directory of environments that others build, looked at first and never written.
    """

    cache: Path
    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    environments: Path | None = None
    shared_environments: Path | None = None

    @property
    def environments_root(self) -> Path:
        """The directory of the subjects' base environments."""
        return self.environments or self.cache / "environments"

    @property
    def environment_roots(self) -> tuple[Path, ...]:
        """Each directory that may hold a base environment, in the order in which they are looked at."""
        return (*((self.shared_environments,) if self.shared_environments else ()), self.environments_root)


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read the settings from `environ`. Raises RequestError for an endpoint that is not a URL."""
    return Settings(
        cache=_read_cache(environ),
        endpoint=_read_endpoint(environ),
        token=environ.get("HF_TOKEN") or None,
        offline=environ.get("HF_HUB_OFFLINE", "").strip().lower() in TRUE,
        environments=_read_directory(environ, "HUB_TESTS_ENVIRONMENTS"),
        shared_environments=_read_directory(environ, "HUB_TESTS_SHARED_ENVIRONMENTS"),
    )


def _read_endpoint(environ: Mapping[str, str]) -> str:
    endpoint = (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"HF_ENDPOINT={endpoint[:200]}: expected a URL like {DEFAULT_ENDPOINT}")
    return endpoint


def _read_directory(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(chosen).expanduser() if (chosen := environ.get(name)) else None


def _read_cache(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("HUB_TESTS_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("hub-tests")
