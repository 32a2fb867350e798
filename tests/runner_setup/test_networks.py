"""The closed networks: valid, not public, and with every metadata address in them."""

from __future__ import annotations

import ipaddress

import pytest

from hub_runner.networks import CLOSED4, CLOSED6, METADATA4, METADATA6


@pytest.mark.parametrize("network", [*CLOSED4, *CLOSED6])
def test_a_closed_network_is_one_and_not_public(network: str) -> None:
    closed = ipaddress.ip_network(network)
    leads_to_ipv4 = network in ("64:ff9b::/96", "2002::/16")
    begins_with_multicast = closed.network_address.is_multicast
    assert leads_to_ipv4 or begins_with_multicast or not closed.is_global


@pytest.mark.parametrize("network", [*METADATA4, *METADATA6])
def test_every_metadata_address_is_closed(network: str) -> None:
    metadata = ipaddress.ip_network(network)
    closed = [ipaddress.ip_network(each) for each in (CLOSED4 if metadata.version == 4 else CLOSED6)]
    assert any(metadata.subnet_of(each) for each in closed)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.7.7", "172.16.0.1", "100.64.0.9", "fd00::9", "fe80::1"])
def test_well_known_private_addresses_are_closed(address: str) -> None:
    wanted = ipaddress.ip_address(address)
    assert any(wanted in ipaddress.ip_network(each) for each in (*CLOSED4, *CLOSED6))
