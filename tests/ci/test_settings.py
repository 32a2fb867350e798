from pathlib import Path

import pytest

from ci.errors import RequestError
from ci.settings import DEFAULT_ENDPOINT, NetworkLimits, from_environ


def test_defaults() -> None:
    settings = from_environ({})
    assert settings.endpoint == DEFAULT_ENDPOINT
    assert settings.token is None
    assert not settings.offline
    assert settings.cache.name == "hub-tests"


def test_everything_set(tmp_path: Path) -> None:
    settings = from_environ(
        {
            "HF_ENDPOINT": "http://127.0.0.1:1/",
            "HF_TOKEN": "hf_secret",
            "HF_HUB_OFFLINE": "ON",
            "HUB_TESTS_CACHE": str(tmp_path),
        }
    )
    assert settings.endpoint == "http://127.0.0.1:1"
    assert settings.offline
    assert settings.cache == tmp_path
    assert "hf_secret" not in repr(settings)


@pytest.mark.parametrize("endpoint", ["nonsense", "huggingface.co", "ftp://huggingface.co", "https://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(RequestError, match=r"HF_ENDPOINT=.*: expected a URL like https://"):
        from_environ({"HF_ENDPOINT": endpoint})


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_empty_and_false_values_are_not_set(value: str) -> None:
    assert not from_environ({"HF_HUB_OFFLINE": value, "HF_TOKEN": ""}).offline


def test_limits_of_the_network() -> None:
    limits = from_environ(
        {
            "HUB_TESTS_STREAMS": "4",
            "HUB_TESTS_TIMEOUT": "7.5",
            "HUB_TESTS_MINIMUM_RATE": "0",
            "HUB_TESTS_DEADLINE": "600",
        }
    ).network
    assert limits == NetworkLimits(4, 7.5, 0.0, 600.0)
    assert from_environ({"HUB_TESTS_STREAMS": ""}).network == NetworkLimits()


def test_a_token_that_was_copied_with_a_new_line_is_used_without_it() -> None:
    assert from_environ({"HF_TOKEN": " hf_secret\r\n"}).token == "hf_secret"
    assert from_environ({"HF_TOKEN": "\n"}).token is None


@pytest.mark.parametrize("value", ["hf_sec ret", "hf_sec\nret", "hf_s\xe9cret", "hf_sec\x00ret"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(RequestError, match=r"^HF_TOKEN: white space or other characters inside") as refused:
        from_environ({"HF_TOKEN": value})
    assert "hf_" not in str(refused.value)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="/file: a file; --cache and HUB_TESTS_CACHE name a directory"):
        from_environ({"HUB_TESTS_CACHE": str(tmp_path / "file")})


@pytest.mark.parametrize("name", ["STREAMS", "TIMEOUT", "MINIMUM_RATE", "DEADLINE"])
@pytest.mark.parametrize("value", ["x", "-1", "nan", "1e12"])
def test_a_limit_that_is_no_number_or_out_of_bounds_is_refused(name: str, value: str) -> None:
    with pytest.raises(RequestError, match=rf"HUB_TESTS_{name}={value}: expected a number from \d+ to \d+"):
        from_environ({f"HUB_TESTS_{name}": value})


def test_the_documents_name_every_limit() -> None:
    text = Path("docs/transfer.md").read_text()
    for name, default in vars(NetworkLimits()).items():
        assert f"| `HUB_TESTS_{name.upper()}` | {default:g} |" in text
