"""Settings from environment variables, read once by the entry points into a frozen record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ENDPOINT = "https://huggingface.co"
TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class NetworkLimits:
    """How long a fetch waits and how many connections it opens; each field is an environment variable.

    `streams` (`HUB_TESTS_STREAMS`) bounds the parallel connections; how many are used is measured. A connection that is
    silent for `timeout` seconds (`HUB_TESTS_TIMEOUT`), or that brings fewer than `minimum_rate` bytes a second
    (`HUB_TESTS_MINIMUM_RATE`) for that long, is broken. A fetch ends after `deadline` seconds (`HUB_TESTS_DEADLINE`).
    """

    streams: int = 64
    timeout: float = 30.0
    minimum_rate: float = 1000.0
    deadline: float = 6 * 3600.0


NETWORK_BOUNDS = {"streams": (1, 96), "timeout": (1, 3600), "minimum_rate": (0, 10**9), "deadline": (1, 10**7)}
"""The least and largest value of each limit. huggingface_hub's HTTP client opens at most 100 connections."""


@dataclass(frozen=True)
class Settings:
    """What the environment variables say, with the defaults of those that are not set.

    These are `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, the variables `HUB_TESTS_…`, and the limits.
    `store_url` is a remote store that is read through into `cache`; with `uploads` what it lacks is written there.
    Without `compile_cache` (`HUB_TESTS_COMPILE_CACHE`) compiled code is not kept.
    `shared_environments` holds what others build: looked at first, never written.
    """

    cache: Path
    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    environments: Path | None = None
    shared_environments: Path | None = None
    network: NetworkLimits = NetworkLimits()
    store_url: str | None = None
    uploads: bool = False
    compile_cache: Path | None = None

    @property
    def environments_root(self) -> Path:
        """The directory of the subjects' base environments."""
        return self.environments or self.cache / "environments"

    @property
    def environment_roots(self) -> tuple[Path, ...]:
        """Each directory that may hold a base environment, in the order in which they are looked at."""
        return (*((self.shared_environments,) if self.shared_environments else ()), self.environments_root)


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read the settings from `environ`. Raises RequestError for a value that cannot be meant."""
    return Settings(
        cache=_read_cache(environ),
        endpoint=_read_endpoint(environ),
        token=read_token(environ, "HF_TOKEN") or None,
        offline=environ.get("HF_HUB_OFFLINE", "").strip().lower() in TRUE,
        environments=_read_path(environ, "HUB_TESTS_ENVIRONMENTS"),
        compile_cache=_read_path(environ, "HUB_TESTS_COMPILE_CACHE"),
        shared_environments=_read_path(environ, "HUB_TESTS_SHARED_ENVIRONMENTS"),
        network=_read_limits(environ),
        store_url=environ.get("HUB_TESTS_STORE_URL") or None,
    )


def read_token(environ: Mapping[str, str], name: str) -> str:
    """Read a token; "" where there is none.

    White space around it is left out: a copied secret often ends in a new line. Raises RequestError for what no HTTP
    header can hold, without the value: a client's own error about such a header shows it.
    """
    token = environ.get(name, "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise RequestError(f"{name}: white space or other characters inside that no token has; copy it once more")
    return token


def _read_path(environ: Mapping[str, str], name: str) -> Path | None:
    chosen = environ.get(name)
    return Path(chosen).expanduser() if chosen else None


def _read_limits(environ: Mapping[str, str]) -> NetworkLimits:
    """Read the limits of the network. Raises RequestError for one that is no number or out of bounds."""
    values: dict[str, Any] = {}
    for name, (least, largest) in NETWORK_BOUNDS.items():
        variable = f"HUB_TESTS_{name.upper()}"
        text = environ.get(variable, "").strip()
        kind = int if name == "streams" else float
        try:
            value = kind(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not least <= value <= largest:
            raise RequestError(f"{variable}={text[:50]}: expected a number from {least} to {largest}")
        if value is not None:
            values[name] = value
    return NetworkLimits(**values)


def _read_endpoint(environ: Mapping[str, str]) -> str:
    endpoint = (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"HF_ENDPOINT={endpoint[:200]}: expected a URL like {DEFAULT_ENDPOINT}")
    return endpoint


def _read_cache(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("HUB_TESTS_CACHE"):
        root = Path(chosen).expanduser()
        if root.is_file():
            raise RequestError(f"store {root}: a file; --cache and HUB_TESTS_CACHE name a directory")
        return root
    from platformdirs import user_cache_path

    return user_cache_path("hub-tests")
