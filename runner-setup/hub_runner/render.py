"""One file in, every artefact out: units, users, directories, firewall, scripts, admission policy, labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hub_runner.kubernetes import manifests
from hub_runner.layout import Layout
from hub_runner.networks import CLOSED4, CLOSED6, METADATA4, METADATA6
from hub_runner.policy import policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub_runner.config import Config, Slot

UNITS = (
    "supervisor.service",
    "mint.socket",
    "update.service",
    "update.timer",
    "janitor.service",
    "janitor.timer",
    "firewall.service",
)
PLAIN, SCRIPT = 0o644, 0o755


@dataclass(frozen=True)
class Rendered:
    """One file's text and mode."""

    text: str
    mode: int = PLAIN


def host_files(config: Config) -> Mapping[str, Rendered]:
    """Every file of the host that follows from the config, by its path below /."""
    units, program = "etc/systemd/system", "opt/hub-runner"
    named = {
        **{f"{units}/{slot.unit}": _template("slot.service", config, slot=slot) for slot in config.places},
        **{f"{units}/{mount_unit(slot)}": _template("slot.mount", config, slot=slot) for slot in config.places},
        **{f"{units}/hub-runner-{name}": _template(name, config) for name in UNITS},
        f"{units}/hub-runner-disk@.service": _template("disk.service", config),
        f"{units}/hub-runner-logs@.service": _template("logs.service", config),
        f"{units}/hub-runner-mint@.service": _template("mint.service", config),
        f"{units}/hubrunner.slice": _template("slice", config),
        "etc/sysusers.d/hub-runner.conf": _template("sysusers.conf", config),
        "etc/tmpfiles.d/hub-runner.conf": _template("tmpfiles.conf", config),
        "etc/hub-runner/firewall.nft": _template("firewall.nft", config),
        "etc/hub-runner/labels.json": _json(runs_on(config)),
        f"{program}/admission.json": _json(policy(config)),
    }
    scripts = {f"{program}/libexec/{name}": _template(name, config) for name in ("slot-run", "job-started.sh")}
    return {path: Rendered(text) for path, text in named.items()} | {
        path: Rendered(text, SCRIPT) for path, text in scripts.items()
    }


def mount_unit(slot: Slot) -> str:
    """The name that systemd demands of the unit of the slot's mount point: systemd.unit(5), string escaping."""
    return str(Layout().disk(slot.index)).strip("/").replace("-", r"\x2d").replace("/", "-") + ".mount"


def all_files(config: Config) -> Mapping[str, Rendered]:
    """The host's files, and the cluster's below `kubernetes/`."""
    cluster = {f"kubernetes/{name}": Rendered(text) for name, text in manifests(config).items()}
    return {**host_files(config), **cluster}


def runs_on(config: Config) -> dict[str, list[str]]:
    """The `runs-on` of a workflow, by the number of GPUs that its job needs; `store` for the job that fetches."""
    return {"store" if slot.writes_store else str(len(slot.gpus)): list(slot.labels) for slot in config.places}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _template(name: str, config: Config, **more: Any) -> str:
    paths = Layout()
    values = {
        "config": config,
        "paths": paths,
        "python": paths.program / "venv/bin/python",
        "gpus": sorted(gpu for slot in config.places for gpu in slot.gpus),
        "uids": [slot.uid for slot in config.places],
        "store_owner": next((slot.user for slot in config.places if slot.writes_store), "root"),
        "metadata": (*METADATA4, *METADATA6),
        "closed4": CLOSED4,
        "closed6": CLOSED6,
        "mount_unit": mount_unit,
        **more,
    }
    sandbox = _templates().get_template("sandbox.j2").render().rstrip()
    return _templates().get_template(f"{name}.j2").render(sandbox=sandbox, **values)


@cache
def _templates() -> Environment:
    # Units and shell, not HTML; every value was checked when the file was read.
    return Environment(  # noqa: S701
        loader=PackageLoader("hub_runner"), undefined=StrictUndefined, keep_trailing_newline=True
    )
