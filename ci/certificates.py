"""One variable for a private certificate authority, SSL_CERT_FILE, which httpx, uv and programs in Go read themselves.

git, pip and node have variables of their own, which win where they are set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHARED = "SSL_CERT_FILE"
OWN = ("GIT_SSL_CAINFO", "PIP_CERT")
"""git-config(1) "http.sslCAInfo", https://pip.pypa.io/en/stable/topics/https-certificates/"""
OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""Those of the other programs of a job's steps: Python's requests, curl, and node, in which GitHub's actions run."""
PRIVATE_KEY = b"PRIVATE KEY-----"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's and Ubuntu's update-ca-certificates writes all authorities."""
FIX = f"name a PEM file of all authorities to trust; update-ca-certificates writes {BUNDLE}"


@dataclass(frozen=True)
class Certificates:
    """How many authorities a file has, and the names of those that are no longer valid."""

    authorities: int
    expired: tuple[str, ...]


def share_certificates(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which git and pip trust the authorities of SSL_CERT_FILE too."""
    shared = environ.get(SHARED)
    return {**dict.fromkeys(OWN, shared), **environ} if shared else {**environ}


def name_certificates(file: str) -> dict[str, str]:
    """Return the variables by which each program of a job trusts the authorities of a file."""
    return dict.fromkeys((SHARED, *OWN, *OTHERS), file) if file else {}


def read_certificates(file: Path, now: float | None = None) -> Certificates:
    """Read the authorities of a PEM file; `now` in seconds since 1970.

    Raises RequestError, one line with what to do, where it is missing, is no PEM file, holds a private key, or where
    every authority in it has expired.
    """
    import ssl  # only where there are certificates to look at: each unit of a host imports this module

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if PRIVATE_KEY in file.read_bytes():
            raise RequestError(f"{file}: has a private key, which every job could read: leave only certificates in it")
        context.load_verify_locations(cafile=file)
    except ssl.SSLError:
        raise RequestError(f"{file}: not a PEM file of certificates (BEGIN CERTIFICATE): {FIX}") from None
    except OSError as problem:
        raise RequestError(f"{file}: {problem.strerror}: {FIX}") from None
    found = context.get_ca_certs()
    moment = time.time() if now is None else now
    expired = tuple(_name(each) for each in found if ssl.cert_time_to_seconds(str(each["notAfter"])) < moment)
    if not found:
        raise RequestError(f"{file}: has no certificate of an authority (basicConstraints CA:TRUE): {FIX}")
    if len(expired) == len(found):
        raise RequestError(f"{file}: {', '.join(expired[:3])} expired: put the authority's new certificate there")
    return Certificates(len(found), expired)


def _name(certificate: Mapping[str, object]) -> str:
    """Return the common name of a certificate's subject, as ssl writes it, else its organization."""
    subject = certificate.get("subject")
    fields = dict(pair for group in subject for pair in group) if isinstance(subject, tuple) else {}
    return str(fields.get("commonName") or fields.get("organizationName") or "an authority without a name")
