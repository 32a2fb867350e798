"""The settings as records: slots with their users and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from hub_runner.config import AllowedConnection
from hub_runner.config_file import load_config
from tests.runner_setup.conftest import EXAMPLE

if TYPE_CHECKING:
    from hub_runner.config import Config


def test_the_example_gives_slots_users_and_labels() -> None:
    one, two, store = load_config(EXAMPLE).resolved_slots
    assert (one.gpus, one.user, one.uid) == ((0,), "hub-slot-0", 60700)
    assert one.labels == ("self-hosted", "linux", "x64", "hub-tests", "h100", "gpus-1")
    assert (two.gpus, two.labels[-1], two.uid) == ((1, 2), "gpus-2", 60701)
    assert (store.gpus, store.labels) == ((), ("self-hosted", "linux", "x64", "hub-tests-store"))


def test_the_slots_number_is_checked_by_the_file(config: Config) -> None:
    with pytest.raises(RequestError):
        config.get_slot(-1)


def test_a_single_address_is_a_network_of_one() -> None:
    assert AllowedConnection("10.0.0.1", 53, "DNS").network == "10.0.0.1/32"
    assert AllowedConnection("10.0.0.0/8", 53, "DNS").network == "10.0.0.0/8"
