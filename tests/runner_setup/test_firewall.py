"""The firewall in a network of its own: a job's user tries what it must not reach, before and after the rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hub_runner.config import AllowedConnection, EgressSettings
from hub_runner.render import render_host_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hub_runner.config import Config

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("firewall")]

JOB, NOBODY = 60700, 65534
HERE4, HERE6 = "198.51.100.2", "2001:db8::2"
INTERNET = ("198.51.100.1", "2001:db8::1")
CLOSED = ("169.254.169.254", "10.1.2.3", "192.168.7.7", "100.64.0.9", "fd00::9", "fd00:ec2::254")
ALLOWED = "10.9.9.9"
PORT = 8080

SERVE = """
import socket, sys, threading
def serve(family, address, port):
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, port)); server.listen()
    while True:
        server.accept()[0].close()
for port in map(int, sys.argv[1:]):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        threading.Thread(target=serve, args=(family, address, port), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
CONNECT = """
import json, os, socket, sys
"loaded while the library can be read".encode("idna")
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
answers = {}
for target in sys.argv[2:]:
    host, _, port = target.rpartition("@")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        answers[target] = True
    except OSError:
        answers[target] = False
print(json.dumps(answers))
"""


class Network:
    """Two namespaces joined by a cable: `host` with the firewall, `world` with everything that a job might want."""

    def __init__(self) -> None:
        self.host, self.world = f"hr-host-{os.getpid()}", f"hr-world-{os.getpid()}"
        self.servers: list[subprocess.Popen[str]] = []

    def inside(self, space: str, *command: str, stdin: str | None = None) -> str:
        full = ["ip", "netns", "exec", space, *command]
        answer = subprocess.run(full, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, f"{command}: {answer.stderr}"
        return answer.stdout

    def build(self) -> None:
        for space in (self.host, self.world):
            subprocess.run(["ip", "netns", "add", space], check=True, capture_output=True)
            self.inside(space, "ip", "link", "set", "lo", "up")
        self.inside(self.host, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", self.world)
        for space, link, v4, v6 in ((self.host, "near", HERE4, HERE6), (self.world, "far", *INTERNET)):
            self.inside(space, "ip", "address", "add", f"{v4}/24", "dev", link)
            self.inside(space, "ip", "-6", "address", "add", f"{v6}/64", "dev", link, "nodad")
            self.inside(space, "ip", "link", "set", link, "up")
        self.inside(self.host, "ip", "route", "add", "default", "via", INTERNET[0])
        self.inside(self.host, "ip", "-6", "route", "add", "default", "via", INTERNET[1])
        for address in (*CLOSED, ALLOWED):
            self.inside(self.world, "ip", "address", "add", address, "dev", "lo")

    def serve(self, space: str, *ports: int, user: int = 0) -> None:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        command = ["ip", "netns", "exec", space, *as_user, sys.executable, "-c", SERVE, *map(str, ports)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def reach(self, space: str, user: int, *targets: str) -> dict[str, bool]:
        answer: dict[str, bool] = json.loads(self.inside(space, sys.executable, "-c", CONNECT, str(user), *targets))
        return answer

    def load(self, rules: str) -> None:
        self.inside(self.host, "nft", "-f", "-", stdin=rules)

    def end(self) -> None:
        for server in self.servers:
            server.communicate("", timeout=10)
        for space in (self.host, self.world):
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def why_not() -> str:
    if os.geteuid() != 0:
        return "only root can make a network"
    missing = [tool for tool in ("ip", "nft", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"apt-get install iproute2 nftables util-linux (missing: {', '.join(missing)})"
    probe = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "x", "type", "veth"], capture_output=True, check=False
    )
    return "no veth in this kernel" if probe.returncode else ""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if reason := why_not():
        pytest.skip(reason)
    network = Network()
    try:
        network.build()
        network.serve(network.world, PORT, 443)
        network.serve(network.host, PORT, 22, 53, 9400)
        network.serve(network.host, 9000, user=JOB)
        yield network
    finally:
        network.end()


def rules(config: Config, **egress: Any) -> str:
    changed = replace(config, egress=EgressSettings(**egress))
    return render_host_files(changed)["etc/hub-runner/firewall.nft"].text


@pytest.fixture
def shut(network: Network, config: Config) -> Network:
    """The rules of the example, with one way in to the LAN and one host service closed."""
    network.load(rules(config, allow=(AllowedConnection(ALLOWED, PORT, "a proxy"),), closed_ports=(9400,)))
    return network


def targets(*addresses: str, port: int = PORT) -> list[str]:
    return [f"{address}@{port}" for address in addresses]


def test_without_the_rules_everything_is_reached(network: Network) -> None:
    network.inside(network.host, "nft", "flush", "ruleset")
    wanted = targets(*CLOSED, *INTERNET, ALLOWED, HERE4, "127.0.0.1", "::1")
    assert network.reach(network.host, JOB, *wanted) == dict.fromkeys(wanted, True)
    assert network.reach(network.world, 0, f"{HERE4}@9000")[f"{HERE4}@9000"]


def test_a_job_reaches_the_internet_and_no_private_network(shut: Network) -> None:
    assert shut.reach(shut.host, JOB, *targets(*INTERNET)) == dict.fromkeys(targets(*INTERNET), True)
    assert shut.reach(shut.host, JOB, *targets(*CLOSED)) == dict.fromkeys(targets(*CLOSED), False)


def test_what_is_allowed_is_open_at_its_port_alone(shut: Network) -> None:
    answers = shut.reach(shut.host, JOB, f"{ALLOWED}@{PORT}", f"{ALLOWED}@443")
    assert answers == {f"{ALLOWED}@{PORT}": True, f"{ALLOWED}@443": False}


def test_a_job_reaches_its_own_services_on_loopback_and_not_the_hosts(shut: Network) -> None:
    answers = shut.reach(shut.host, JOB, "127.0.0.1@9000", "::1@9000", "127.0.0.1@53", "127.0.0.1@22", "127.0.0.1@9400")
    assert answers == {
        "127.0.0.1@9000": True, "::1@9000": True, "127.0.0.1@53": True, "127.0.0.1@22": False, "127.0.0.1@9400": False,
    }  # fmt: skip
    own = targets(HERE4, HERE6, port=9000)
    assert shut.reach(shut.host, JOB, *own) == dict.fromkeys(own, False)


def test_nobody_outside_reaches_what_a_job_listens_on(shut: Network) -> None:
    listening = targets(HERE4, HERE6, port=9000)
    assert shut.reach(shut.world, 0, *listening) == dict.fromkeys(listening, False)


def test_other_users_are_not_touched(shut: Network) -> None:
    wanted = targets(*CLOSED, *INTERNET)
    assert shut.reach(shut.host, NOBODY, *wanted) == dict.fromkeys(wanted, True)
    assert shut.reach(shut.world, 0, f"{HERE4}@{PORT}")[f"{HERE4}@{PORT}"]


def test_listed_means_nothing_else(network: Network, config: Config) -> None:
    network.load(rules(config, mode="listed", allow=(AllowedConnection(ALLOWED, PORT, "a proxy"),)))
    wanted = targets(*INTERNET, *CLOSED)
    assert network.reach(network.host, JOB, *wanted) == dict.fromkeys(wanted, False)
    assert network.reach(network.host, JOB, f"{ALLOWED}@{PORT}")[f"{ALLOWED}@{PORT}"]


def test_loading_the_rules_twice_is_loading_them_once(shut: Network, config: Config) -> None:
    shut.load(rules(config))
    once = shut.inside(shut.host, "nft", "list", "ruleset")
    shut.load(rules(config))
    assert shut.inside(shut.host, "nft", "list", "ruleset") == once
