"""The one file: the example is right, and every mistake is told with its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from hub_runner.config_file import load_config, parse_config
from tests.runner_setup.conftest import EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

ALLOW = '[[egress.allow]]\naddress = "{}"\nport = {}\nwhy = "x"\n[admission]'


MISTAKES = {
    "unknown key": ("cpus = 12", "cpus = 12\ncores = 3", "limits.cores"),
    "missing key": ("memory_gib = 96", "", "limits.memory_gib: Field required"),
    "wrong type": ("cpus = 12", 'cpus = "many"', "limits.cpus"),
    "not positive": ("cpus = 12", "cpus = 0", "limits.cpus: 0 is not positive"),
    "not TOML": ("[limits]", "[limits", "hub-runner.toml"),
    "host name": ('"gpu-host-1"', '"GPU host; rm"', "host.name"),
    "one GPU twice": ("gpus = [1, 2]", "gpus = [0, 2]", "/dev/nvidia0 belongs to two slots"),
    "slot of nothing": ("gpus = [1, 2]", "gpus = []", "give either gpus, or writes_store"),
    "both": ("writes_store = true", "writes_store = true\ngpus = [5]", "give either gpus, or writes_store"),
    "two writers": ("gpus = [1, 2]", "writes_store = true", "at most one slot"),
    "compiled without a GPU": ("writes_store = true", "writes_store = true\nfills_compile_cache = true", "needs gpus"),
    "two fillers": (
        "gpus = [1, 2]",
        "gpus = [1]\nfills_compile_cache = true\n[[slots]]\ngpus = [2]\nfills_compile_cache = true",
        "at most one slot may fill the compile cache",
    ),
    "two homes": ('repository = "e', 'organization = "x"\nrepository = "e', "either repository or organization"),
    "bad repository": ('example-org/example-repo" ', 'example-org" ', "github.repository"),
    "label": ('"h100"]', '"h 100"]', "runner.labels"),
    "uid": ("uid_base = 60700", "uid_base = 1000", "host.uid_base"),
    "store": ('"/srv/hub-tests"', '"/srv/hub tests"', "runner.store"),
    "workflow": (".github/workflows/hub-tests.yml@refs", "hub-tests.yml@refs", "admission.workflows"),
    "pull_request": ('["schedule", ', '["pull_request", ', "runs a pull request's own workflow"),
    "too few versions": ("runner_versions = 2", "runner_versions = 1", "runner_versions"),
    "metadata": ("[admission]", ALLOW.format("169.254.0.0/16", 80), "metadata address"),
    "host bits": ("[admission]", ALLOW.format("10.0.0.1/8", 80), "egress.allow"),
    "environment": ('["fast_llm"]', '["../fast_llm.toml"]', "environments.build"),
    "keep days": ("keep_days = 30", "keep_days = 0", "environments.keep_days: 0 is not positive"),
    "proxy": ("[kubernetes]", '[proxy]\nurl = "http://user:word@proxy:3128"\n[kubernetes]', "without a password"),
    "no proxy": ("[kubernetes]", '[proxy]\nwithout = ["a b"]\n[kubernetes]', "proxy.without"),
    "port": ("[admission]", ALLOW.format("10.0.0.1", 0), "port 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_key(mistake: str) -> None:
    right, wrong, told = MISTAKES[mistake]
    text = EXAMPLE.read_text()
    assert right in text
    with pytest.raises(RequestError) as failure:
        parse_config(text.replace(right, wrong, 1), what="hub-runner.toml")
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        load_config(tmp_path / "none.toml")


def test_a_status_issue_needs_a_repository() -> None:
    text = EXAMPLE.read_text().replace('repository = "example-org/example-repo"', 'organization = "example-org"')
    with pytest.raises(RequestError, match="status_issue needs"):
        parse_config(text, what="f")
