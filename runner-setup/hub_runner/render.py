"""Renders all files of a host from its config: units, users, directories, firewall, scripts, policy, labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ci.certificates import name_certificates
from hub_runner.admission_policy import build_policy
from hub_runner.kubernetes import render_manifests
from hub_runner.layout import Layout
from hub_runner.networks import CLOSED4, CLOSED6, METADATA4, METADATA6
from hub_runner.slot_sandbox import make_probe_unit, probe_unit_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub_runner.config import Config, Slot

UNITS = (
    "supervisor.service",
    "registrar.socket",
    "update.service",
    "update.timer",
    "janitor.service",
    "janitor.timer",
    "environments.service",
    "environments.timer",
    "firewall.service",
    "apparmor.service",
)
PLAIN, SCRIPT = 0o644, 0o755


@dataclass(frozen=True)
class Rendered:
    """The text and mode of one file."""

    text: str
    mode: int = PLAIN


def render_host_files(config: Config) -> Mapping[str, Rendered]:
    """Render every file of the host, by its path below /."""
    units, program = "etc/systemd/system", "opt/hub-runner"
    slots = {slot: _render_template("slot.service", config, slot=slot) for slot in config.resolved_slots}
    texts = {
        **{f"{units}/{slot.unit}": text for slot, text in slots.items()},
        **{
            f"{units}/{probe_unit_name(slot)}": make_probe_unit(slot, text, Layout())
            for slot, text in slots.items()
            if not slot.writes_store  # it runs trusted code only
        },
        **{
            f"{units}/{mount_unit_name(slot)}": _render_template("slot.mount", config, slot=slot)
            for slot in config.resolved_slots
        },
        **{f"{units}/hub-runner-{name}": _render_template(name, config) for name in UNITS},
        f"{units}/hub-runner-disk@.service": _render_template("disk.service", config),
        f"{units}/hub-runner-logs@.service": _render_template("logs.service", config),
        f"{units}/hub-runner-registrar@.service": _render_template("registrar.service", config),
        f"{units}/hubrunner.slice": _render_template("slice", config),
        "etc/sysusers.d/hub-runner.conf": _render_template("sysusers.conf", config),
        "etc/tmpfiles.d/hub-runner.conf": _render_template("tmpfiles.conf", config),
        "etc/hub-runner/firewall.nft": _render_template("firewall.nft", config),
        "etc/hub-runner/apparmor-slot": _render_template("apparmor-slot", config),
        "etc/hub-runner/labels.json": _format_json(labels_by_gpu_count(config)),
        f"{program}/admission.json": _format_json(build_policy(config)),
    }
    scripts = {f"{program}/libexec/{name}": _render_template(name, config) for name in ("slot-run", "job-started.sh")}
    return {path: Rendered(text) for path, text in texts.items()} | {
        path: Rendered(text, SCRIPT) for path, text in scripts.items()
    }


def mount_unit_name(slot: Slot) -> str:
    """Return the name that systemd requires for the mount unit of the slot's disk.

    systemd.unit(5), section "String Escaping for Inclusion in Unit Names".
    """
    return str(Layout().disk(slot.index)).strip("/").replace("-", r"\x2d").replace("/", "-") + ".mount"


def render_all_files(config: Config) -> Mapping[str, Rendered]:
    """Render the host's files, and the cluster's below `kubernetes/`."""
    cluster = {f"kubernetes/{name}": Rendered(text) for name, text in render_manifests(config).items()}
    return {**render_host_files(config), **cluster}


def labels_by_gpu_count(config: Config) -> dict[str, list[str]]:
    """Return the labels for `runs-on`, by number of GPUs.

    "store" is for the job that fetches checkpoints, "nightly" for the runs that fill the compile cache.
    """
    return {_name_kind(slot): list(slot.labels) for slot in config.resolved_slots}


def _name_kind(slot: Slot) -> str:
    if slot.writes_store:
        return "store"
    return "nightly" if slot.fills_compile_cache else str(len(slot.gpus))


def build_proxy_variables(config: Config) -> dict[str, str]:
    """Return the variables that name the proxy and the certificates; programs differ in which they read."""
    certificates = name_certificates(config.proxy.certificates)
    if not config.proxy.url:
        return certificates
    values = {
        "http_proxy": config.proxy.url,
        "https_proxy": config.proxy.url,
        "no_proxy": ",".join(config.proxy.without),
    }
    return values | {name.upper(): value for name, value in values.items()} | certificates


def _format_json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _render_template(name: str, config: Config, **values: Any) -> str:
    paths = Layout()
    context = {
        "config": config,
        "paths": paths,
        "python": paths.program / "venv/bin/python",
        "gpus": sorted(gpu for slot in config.resolved_slots for gpu in slot.gpus),
        "uids": [slot.uid for slot in config.resolved_slots],
        "store_owner": next((slot.user for slot in config.resolved_slots if slot.writes_store), "root"),
        "compiled_owner": next((slot.user for slot in config.resolved_slots if slot.fills_compile_cache), "root"),
        "metadata": (*METADATA4, *METADATA6),
        "closed4": CLOSED4,
        "closed6": CLOSED6,
        "mount_unit_name": mount_unit_name,
        "proxy": build_proxy_variables(config),
        **values,
    }
    sandbox = _template_environment().get_template("sandbox.j2").render().rstrip()
    return _template_environment().get_template(f"{name}.j2").render(sandbox=sandbox, **context)


@cache
def _template_environment() -> Environment:
    # No HTML escaping: these are units and shell scripts, and config_file.py has checked every value.
    return Environment(  # noqa: S701
        loader=PackageLoader("hub_runner"), undefined=StrictUndefined, keep_trailing_newline=True
    )
