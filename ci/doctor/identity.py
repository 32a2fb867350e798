"""The identity of this host, which goes with every result: a failure can be traced to a machine and a card."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ci.chat_templates.engines import describe_second_engine
from ci.nvml import read_nvml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.nvml import Nvml

LIBRARIES = ("torch", "transformers", "huggingface_hub", "safetensors")


def read_host_identity(nvml: Nvml | None = None) -> Mapping[str, str]:
    """Read host, system, GPUs with UUID, driver and library versions.

    Imports none of the libraries and uses no network.
    """
    nvml = read_nvml() if nvml is None else nvml
    gpus = {f"gpu{gpu.index}": f"{gpu.name} {gpu.uuid}".strip() for gpu in nvml.gpus}
    driver = {"driver": nvml.driver, "cuda": nvml.cuda} if nvml.gpus else {"gpus": nvml.problem or "none"}
    return {
        "host": platform.node(),
        "system": _read_system(),
        "kernel": platform.release(),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
        **{name: number for name in LIBRARIES if (number := _find_version(name))},
        "chat templates": _describe_template_engines(),
        **driver,
        **gpus,
    }


def _describe_template_engines() -> str:
    """Say which engines judge a chat template that an export rewrote: two, or one and why."""
    second, absent = describe_second_engine()
    return f"judged by Jinja2 and {second}" if second else f"judged by Jinja2 alone: {absent}"


def _read_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
