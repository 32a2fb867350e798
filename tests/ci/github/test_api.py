"""The settings of the client never show the token."""

from __future__ import annotations

from ci.github.api import ApiSettings


def test_the_token_is_not_shown() -> None:
    settings = ApiSettings("o/r", "secret")
    assert settings.token == "secret"
    assert "secret" not in f"{settings} {settings!r}"
