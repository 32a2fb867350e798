"""The client for GitHub's API, against a stateful GitHub that verifies the App's signature."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hub_runner.github import GitHubApp, quote_query, sign_app_token
from hub_runner.interfaces import RegistrarRefusedError, RegistrarUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config
    from tests.runner_setup.fake_runners_api import FakeGitHub

RUNNERS = "/repos/org/repo/actions/runners"


@pytest.fixture
def github_app(config: Config, app_key: Path) -> GitHubApp:
    return GitHubApp(config.github, app_key)


def test_the_apps_token_is_signed_with_its_key(github: FakeGitHub, app_key: Path) -> None:
    assert github.signed(sign_app_token("123456", app_key, time.time()))
    assert not github.signed(sign_app_token("123456", app_key, time.time() - 3600))
    assert not github.signed(sign_app_token("999", app_key, time.time()))


def test_a_key_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistrarRefusedError, match=r"openssl could not sign with .*none\.pem"):
        sign_app_token("123456", tmp_path / "none.pem", 0.0)


def test_a_token_is_for_one_repository_and_what_was_asked(github_app: GitHubApp, github: FakeGitHub) -> None:
    assert github_app.create_token(issues="write") == "ghs_installation"
    assert github.scopes == [{"permissions": {"issues": "write"}, "repositories": ["repo"]}]


def test_an_accepted_status_is_an_answer(github_app: GitHubApp) -> None:
    token = github_app.create_runners_token()
    assert github_app.request("GET", f"{RUNNERS}/99", token, accept=(404,)).status == 404
    with pytest.raises(RegistrarRefusedError, match="404 Not Found"):
        github_app.request("GET", f"{RUNNERS}/99", token)


@pytest.mark.parametrize(
    ("status", "error"),
    [(503, RegistrarUnavailableError), (429, RegistrarUnavailableError), (403, RegistrarRefusedError)],
)
def test_only_a_passing_trouble_is_unavailable(
    github_app: GitHubApp, github: FakeGitHub, status: int, error: type[Exception]
) -> None:
    github.refuse = {"access_tokens": status}
    with pytest.raises(error, match=str(status)):
        github_app.create_runners_token()


def test_a_github_that_does_not_answer_is_unavailable(github_app: GitHubApp, github: FakeGitHub) -> None:
    github.down = True
    with pytest.raises(RegistrarUnavailableError):
        github_app.create_runners_token()


def test_a_refusal_names_a_clock_that_is_off(
    github_app: GitHubApp, github: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_runner.github.time", SimpleNamespace(time=lambda: 4e9))
    with pytest.raises(RegistrarRefusedError, match=r"this host's clock is \+\d+ s off GitHub's"):
        github_app.create_runners_token()


def test_a_value_cannot_leave_its_place_in_the_query() -> None:
    assert quote_query("a&b=c/d e") == "a%26b%3Dc%2Fd%20e"
