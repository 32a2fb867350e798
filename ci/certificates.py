"""One variable for a private certificate authority, SSL_CERT_FILE, which httpx, uv and programs in Go read themselves.

git and pip have variables of their own, which win where they are set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SHARED = "SSL_CERT_FILE"
OWN = ("GIT_SSL_CAINFO", "PIP_CERT")
"""git-config(1) "http.sslCAInfo", https://pip.pypa.io/en/stable/topics/https-certificates/"""


def share_certificates(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which git and pip trust the authorities of SSL_CERT_FILE too."""
    shared = environ.get(SHARED)
    return {**dict.fromkeys(OWN, shared), **environ} if shared else {**environ}
