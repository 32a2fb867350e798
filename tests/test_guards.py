"""The guards of conftest.py guard."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from tests.conftest import is_loopback

pytest_plugins = ["pytester"]


def test_environment_is_the_tests_own(tmp_path: Path) -> None:
    assert Path.home().is_relative_to(tmp_path)
    assert user_cache_path("hub-tests").is_relative_to(tmp_path)
    assert [name for name in os.environ if name.startswith(("HF_", "GITHUB_"))] == ["HF_HUB_DISABLE_TELEMETRY"]


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        (None, True),
        ("192.0.2.1", False),
        ("huggingface.co", False),
    ],
)
def test_loopback_is_told_apart(host: str | None, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_leaving_the_machine_fails_the_test(pytester_guarded: pytest.Pytester) -> None:
    result = pytester_guarded.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=2, errors=2, passed=1)


@pytest.fixture
def pytester_guarded(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest("from tests.conftest import loopback_only, own_environment")
    pytester.makepyfile(
        """
        import contextlib
        import socket

        def test_connect():
            with contextlib.suppress(OSError), socket.socket() as out:
                out.connect(("192.0.2.1", 80))

        def test_name():
            with contextlib.suppress(Exception):
                socket.getaddrinfo("huggingface.co", 443)

        def test_loopback():
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()
        """
    )
    return pytester
