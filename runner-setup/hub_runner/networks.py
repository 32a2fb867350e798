"""The networks that are not the internet: one list for units, firewall and cluster."""

from __future__ import annotations

METADATA4, METADATA6 = ("169.254.0.0/16",), ("fe80::/10", "fd00:ec2::254/128")
"""Link-local networks, where clouds serve the metadata of a machine, and AWS's IPv6 address for the same."""

PRIVATE4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
PRIVATE6 = ("fc00::/7", "ff00::/8", "64:ff9b::/96", "2002::/16")
"""https://www.iana.org/assignments/iana-ipv4-special-registry/ and -ipv6-, and IPv6 prefixes that lead to IPv4."""

CLOSED4 = (*METADATA4, *PRIVATE4)
CLOSED6 = ("fe80::/10", *PRIVATE6)
