"""A proxy as companies have them: it takes CONNECT, breaks TLS open with a certificate of its own CA, and answers.

Behind it lie servers that no DNS knows. It records what was asked.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

CERTIFICATES = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "PIP_CERT"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
)
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class InterceptingProxy:
    """A context manager; `hosts` are the names behind it, `answer` gets a host and a path and answers."""

    folder: Path
    hosts: tuple[str, ...]
    answer: Callable[[str, str], Answer]
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*_make_certificates(self.folder, self.hosts))
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    @property
    def certificates(self) -> Path:
        """The private CA's certificate."""
        return self.folder / "ca.pem"

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment, with the proxy and without anybody's certificates."""
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        kept = {name: value for name, value in os.environ.items() if name not in CERTIFICATES}
        return {**kept, "HTTPS_PROXY": url, "https_proxy": url, "NO_PROXY": "", "no_proxy": ""}

    @property
    def trusting(self) -> dict[str, str]:
        """The variables that name the proxy and its CA."""
        return {**self.environ, "SSL_CERT_FILE": str(self.certificates)}

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        """Read CONNECT, then speak TLS as the host that was named."""
        with suppress(OSError), connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1) or (_ for _ in ()).throw(OSError("closed"))
            host = head.split()[1].decode().partition(":")[0]
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self._context.wrap_socket(connection, server_side=True) as secure:
                _Handler(secure, ("", 0), _Server(self, host))  # type: ignore[arg-type]


@dataclass
class _Server:
    proxy: InterceptingProxy
    host: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        server.proxy.asked.append(f"{server.host}{self.path}")
        status, headers, body = server.proxy.answer(server.host, self.path.partition("?")[0])
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *words: object) -> None:
        """Print nothing."""


def _make_certificates(folder: Path, hosts: tuple[str, ...]) -> tuple[Path, Path]:
    """Make a CA and, signed by it, one certificate for all hosts; return that one and its key."""
    authority, request, certificate, key = (folder / name for name in ("ca.pem", "host.csr", "host.pem", "host.key"))
    names = folder / "names.cnf"
    names.write_text(f"subjectAltName={','.join(f'DNS:{host}' for host in hosts)}\n")
    new: list[str | Path] = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    own = [*new, "-x509", "-days", "2", "-subj", "/CN=a company", "-keyout", folder / "ca.key", "-out", authority]
    ask = [*new, "-subj", f"/CN={hosts[0]}", "-keyout", key, "-out", request]
    sign: list[str | Path] = ["openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", folder / "ca.key"]
    commands: list[list[str | Path]] = [own, ask, [*sign, "-CAcreateserial", "-extfile", names, "-out", certificate]]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return certificate, key
