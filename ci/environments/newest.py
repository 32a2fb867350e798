"""The newest versions that a description allows today, as a description of its own: where upstream breaks, it shows."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ci.environments.installer import UvInstaller, find_python
from ci.errors import InfrastructureError, RequestError
from ci.records import to_dict

if TYPE_CHECKING:
    from ci.environments.description import EnvironmentDescription
    from ci.environments.installer import Installer

SECONDS = 900
SUFFIX = "-newest"
MAX_NAME = 63


def resolve_newest(description: EnvironmentDescription, installer: Installer) -> EnvironmentDescription:
    """Return the description with each package pinned to the newest version that its ranges allow now.

    Its constraints, which hold packages back, do not count. Raises RequestError without uv, InfrastructureError where
    the index does not answer or the ranges have no solution.
    """
    if description.image:
        raise RequestError(f"environment {description.name}: an image has no newer versions; name another image")
    if not isinstance(installer, UvInstaller):
        raise RequestError("the newest versions are resolved by uv: install it (pip install uv)")
    with TemporaryDirectory(prefix="hub-tests-newest.") as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text("".join(f"{word}\n" for word in description.requirements), encoding="utf-8")
        python = find_python(description.python, installer.environ) or description.python
        lines = _resolve(installer, wanted, python)
    pins = tuple(line for line in lines if line and not line.startswith(("#", "-")))
    name = f"{description.name[: MAX_NAME - len(SUFFIX)]}{SUFFIX}"
    return replace(description, name=name, requirements=pins, constraints=())


def _resolve(installer: UvInstaller, wanted: Path, python: str) -> list[str]:
    command = [str(installer.program), "pip", "compile", "--quiet", "--upgrade", "--resolution", "highest"]
    command += ["--no-header", "--no-annotate", "--python", python, str(wanted)]
    try:
        done = subprocess.run(  # noqa: S603
            command, env=dict(installer.environ), capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except subprocess.CalledProcessError as failure:
        said = " ".join(failure.stderr.split())[-500:]
        raise InfrastructureError(f"the newest versions cannot be resolved: {said}") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"the newest versions cannot be resolved: {failure}") from None
    return [line.strip() for line in done.stdout.splitlines()]


def format_description(description: EnvironmentDescription) -> str:
    """Format a description as TOML that reads back as the same one."""
    table: dict[str, Any] = to_dict(description)
    plain = {key.replace("_", "-"): value for key, value in table.items() if not isinstance(value, dict)}
    inner = {key.replace("_", "-"): value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, values in inner.items():
        lines += [f"[{key}]", *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"
