"""What a new environment's own interpreter says that it holds."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from ci.environments.image import enter_image
from ci.errors import InfrastructureError, RequestError
from ci.subjects.failure import to_one_line
from ci.subjects.image_root import find_image_root

if TYPE_CHECKING:
    from pathlib import Path

    from ci.environments.description import EnvironmentDescription

SECONDS = 3600
READ_PACKAGES = """
import importlib.metadata as m, json, platform, sys
try:
    wrong = compile(sys.argv[1], "import-test", "exec") and ""
except (SyntaxError, ValueError) as problem:
    wrong = str(problem)
packages = {d.metadata["Name"]: d.version for d in m.distributions() if d.metadata and "Version" in d.metadata}
print()
print(json.dumps([platform.python_version(), {k: v for k, v in packages.items() if k}, wrong]))
"""


def read_packages(python: Path, description: EnvironmentDescription) -> tuple[str, dict[str, str]]:
    """Ask the new interpreter for its version and packages. Only trusted code has written into it.

    Raises RequestError where the description's import test is no Python of that version.
    """
    arguments = ["-I", "-c", READ_PACKAGES, description.import_test]
    command = enter_image(python, arguments) if find_image_root(python) else [str(python), *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", check=True, timeout=SECONDS
        )
        version, packages, wrong = json.loads(done.stdout.splitlines()[-1])  # a package may print as it starts
    except (OSError, subprocess.SubprocessError) as problem:
        said = to_one_line(getattr(problem, "stderr", None) or str(problem), 300)
        raise InfrastructureError(f"{python}: the new interpreter does not run: {said}") from None
    except (ValueError, IndexError):
        said = f"it printed {to_one_line(done.stdout, 200) or 'nothing'}: look for a *.pth or sitecustomize.py"
        raise InfrastructureError(f"{python}: the new interpreter does not list its packages: {said}") from None
    if wrong:
        raise RequestError(f"environment {description.name}: import-test: {to_one_line(wrong, 200)}")
    return version, dict(sorted(packages.items()))
