"""What a new interpreter says is read whatever its packages print, and nothing else becomes an environment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ci.environments.description import EnvironmentDescription
from ci.environments.installed import read_packages
from ci.errors import InfrastructureError, RequestError

DESCRIPTION = EnvironmentDescription("mine", ">=3.11")


def write_program(folder: Path, *lines: str) -> Path:
    program = folder / "python"
    program.write_text("\n".join(("#!/bin/sh", *lines, "")))
    program.chmod(0o755)
    return program


def test_packages_that_print_as_they_start_do_not_matter(tmp_path: Path) -> None:
    program = write_program(tmp_path, "printf 'garbage \\377\\n[1'", f'exec {sys.executable} "$@"')
    version, packages = read_packages(program, DESCRIPTION)
    assert version.startswith("3.")
    assert "pytest" in packages


@pytest.mark.parametrize("line", ["exit 0", "printf '\\377'", "echo '[]'", "echo {}", "echo '[[[[[['"])
def test_an_interpreter_that_says_nothing_is_none(line: str, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="the new interpreter does not list its packages: it printed"):
        read_packages(write_program(tmp_path, line), DESCRIPTION)


@pytest.mark.parametrize("code", ["def (", "return 1"])
def test_an_import_test_that_is_no_python_is_a_wrong_request(code: str) -> None:
    with pytest.raises(RequestError, match="environment mine: import-test: "):
        read_packages(Path(sys.executable), replace(DESCRIPTION, import_test=code))
