"""Everything that follows from the one file, and nothing besides."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from hub_runner import render
from hub_runner.__main__ import main
from hub_runner.config import ProxySettings, SlotSpec
from hub_runner.config_file import parse_config
from hub_runner.render import labels_by_gpu_count, mount_unit_name, render_all_files, render_host_files
from tests.runner_setup.conftest import config_text

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config

needs_systemd = pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="apt-get install systemd")


def test_everything_follows_from_the_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One more GPU, another label, another way out: each shows wherever it has to."""
    changed = tmp_path / "changed.toml"
    text = config_text().replace("gpus = [1, 2]", "gpus = [1, 2, 5]").replace('"h100"', '"b200"')
    allow = '[[egress.allow]]\naddress = "10.0.0.53"\nport = 53\nprotocol = "udp"\nwhy = "resolver"\n\n[admission]'
    changed.write_text(text.replace("[admission]", allow))
    assert main(["--config", str(changed), "render", "--out", str(tmp_path / "out")]) == 0
    out = tmp_path / "out"
    assert "DeviceAllow=/dev/nvidia5 rw" in (out / "etc/systemd/system/hub-runner-slot-1.service").read_text()
    assert "DeviceAllow=/dev/nvidia5 rw" in (out / "etc/systemd/system/hub-runner-supervisor.service").read_text()
    assert "IPAddressAllow=localhost 10.0.0.53" in (out / "etc/systemd/system/hub-runner-slot-0.service").read_text()
    assert "ip daddr 10.0.0.53 udp dport 53 counter accept" in (out / "etc/hub-runner/firewall.nft").read_text()
    labels = json.loads((out / "etc/hub-runner/labels.json").read_text())
    assert labels["3"] == ["self-hosted", "linux", "x64", "hub-tests", "b200", "gpus-3"]
    values = (out / "kubernetes/values-gpus-3.yaml").read_text()
    assert '"b200"' in values
    assert '"nvidia.com/gpu": "3"' in values
    assert "10.0.0.53/32" in (out / "kubernetes/network-policy.yaml").read_text()
    assert set(map(str, (path.relative_to(out) for path in out.rglob("*") if path.is_file()))) == set(
        render_all_files(parse_config(changed.read_text(), what="x"))
    )


@needs_systemd
def test_the_mount_units_name_is_systemds(config: Config) -> None:
    for slot in config.resolved_slots:
        path = f"/var/lib/hub-runner/slots/{slot.index}/disk"
        command = ["systemd-escape", "--path", "--suffix=mount", path]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == mount_unit_name(
            slot
        )


def test_scripts_can_be_executed_and_nothing_else(config: Config) -> None:
    for path, file in render_all_files(config).items():
        assert file.mode == (0o755 if file.text.startswith("#!") else 0o644), path
        assert file.text.endswith("\n")


def test_every_template_is_used(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"sandbox"}
    original = render._render_template

    def recorded(name: str, config: Config, **values: object) -> str:
        used.add(name)
        return original(name, config, **values)

    monkeypatch.setattr(render, "_render_template", recorded)
    render_host_files(config)
    templates = resources.files("hub_runner").joinpath("templates").iterdir()
    assert {each.name.removesuffix(".j2") for each in templates} == used


def test_labels_are_listed_by_number_of_gpus(config: Config) -> None:
    labels = labels_by_gpu_count(config)
    assert set(labels) == {"1", "2", "store"}
    assert labels["2"][-1] == "gpus-2"


def test_a_proxy_reaches_whatever_has_a_network_and_nothing_else(config: Config) -> None:
    """Jobs, GitHub's runner, uv, pip, git and Python read it from the environment, in one spelling or the other."""
    url = "http://10.0.0.8:3128"
    files = render_host_files(replace(config, proxy=ProxySettings(url)))
    told = {path.rpartition("/")[2] for path, file in files.items() if f"Environment=https_proxy={url}\n" in file.text}
    slots = {name for path in files if (name := path.rpartition("/")[2]).startswith("hub-runner-slot-")}
    assert {slot.unit for slot in config.resolved_slots} <= slots  # and what examines them from inside
    assert told == slots | {
        "hub-runner-update.service",
        "hub-runner-environments.service",
        "hub-runner-registrar@.service",
    }
    for name in told:
        text = next(file.text for path, file in files.items() if path.endswith(f"/{name}"))
        assert f"Environment=HTTPS_PROXY={url}\n" in text
        assert "Environment=no_proxy=localhost,127.0.0.1,::1\n" in text
    assert not any("_proxy=" in file.text for file in render_host_files(config).values())


def test_a_job_sees_environments_and_wheels_and_cannot_write_them(config: Config) -> None:
    for slot in config.resolved_slots:
        unit = render_host_files(config)[f"etc/systemd/system/{slot.unit}"].text
        (line,) = [
            line for line in unit.splitlines() if line.startswith("BindReadOnlyPaths=/var/lib/hub-runner/runners")
        ]
        assert line.split()[1:] == ["/var/lib/hub-runner/environments", "/var/lib/hub-runner/wheels"]
        assert "Environment=HUB_TESTS_SHARED_ENVIRONMENTS=/var/lib/hub-runner/environments" in unit


def test_compiled_code_is_written_by_the_nightly_slot_alone(config: Config) -> None:
    nightly = SlotSpec(gpus=(7,), fills_compile_cache=True)
    filling = replace(config, slots=(*config.slots, nightly))
    for host, writers in ((config, []), (filling, [len(config.slots)])):
        files = render_host_files(host)
        units = {slot.index: files[f"etc/systemd/system/{slot.unit}"].text for slot in host.resolved_slots}
        bound = {
            index: re.findall(r"^(\w+)=/var/lib/hub-runner/compiled$", unit, re.MULTILINE)
            for index, unit in units.items()
        }
        assert [index for index, kinds in bound.items() if kinds == ["BindPaths"]] == writers
        assert all(kinds in (["BindPaths"], ["BindReadOnlyPaths"]) for kinds in bound.values())
        owner = f"hub-slot-{writers[0]}" if writers else "root"
        assert (
            f"d /var/lib/hub-runner/compiled 0755 {owner} {owner} -\n" in files["etc/tmpfiles.d/hub-runner.conf"].text
        )
    labels = labels_by_gpu_count(filling)
    assert labels["nightly"] == ["self-hosted", "linux", "x64", "hub-tests-nightly"]
    assert "gpus-1" in labels["1"], "a job that asks for any GPU does not match the nightly slot"
    assert not set(config.runner.labels) & set(labels["nightly"])
