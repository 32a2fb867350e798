"""A private certificate authority is named once."""

from __future__ import annotations

from ci.certificates import share_certificates


def test_git_and_pip_trust_what_the_others_do() -> None:
    shared = share_certificates({"SSL_CERT_FILE": "/ca.pem", "PATH": "/bin"})
    assert shared == {"SSL_CERT_FILE": "/ca.pem", "PATH": "/bin", "GIT_SSL_CAINFO": "/ca.pem", "PIP_CERT": "/ca.pem"}


def test_their_own_variables_win() -> None:
    assert share_certificates({"SSL_CERT_FILE": "/ca.pem", "PIP_CERT": "/pip.pem"})["PIP_CERT"] == "/pip.pem"


def test_without_one_nothing_is_set() -> None:
    assert share_certificates({"PATH": "/bin"}) == {"PATH": "/bin"}
