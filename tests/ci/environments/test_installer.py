"""uv where it is, else pip; an interpreter that runs and fits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import build_base
from ci.environments.installer import PipInstaller, UvInstaller, find_installer, find_python, find_uv
from ci.errors import InfrastructureError, RequestError
from tests.ci.environments.conftest import DESCRIPTION
from tests.intercepting_proxy import InterceptingProxy

if TYPE_CHECKING:
    from collections.abc import Mapping


def test_uv_builds_the_same(tmp_path: Path, index_environ: Mapping[str, str]) -> None:
    installer = find_installer(index_environ)
    if not isinstance(installer, UvInstaller):
        pytest.skip("uv is not installed")
    built = build_base(tmp_path, replace(DESCRIPTION, requirements=("prebuilt",)), installer, python=sys.executable)
    assert built.manifest.packages["prebuilt"] == "1.0"
    assert built.manifest.installer.startswith("uv ")
    assert "--hash=sha256:" in (built.path / "requirements.lock").read_text()


def test_without_uv_it_is_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    assert isinstance(find_installer({"PATH": "/nowhere"}), PipInstaller)


def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    launcher = tmp_path / "python3.13"
    launcher.write_text("#!/bin/sh\nexit 1\n")
    launcher.chmod(0o755)
    assert find_python(">=3.13,<3.14", {"PATH": str(tmp_path)}) in (None, sys.executable)
    assert find_python(">=3.11", {"PATH": str(tmp_path)}) == sys.executable


def test_no_fitting_interpreter_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no Python >=4 on the path"):
        PipInstaller({"PATH": "/nowhere"}).create(tmp_path / "new", ">=4", lambda _: None)


@pytest.mark.parametrize("kind", ["uv", "pip"])
def test_an_index_behind_a_proxy_with_a_private_authority_is_used(
    kind: str, tmp_path: Path, index_environ: Mapping[str, str]
) -> None:
    uv = find_uv(index_environ)
    if uv is None:
        pytest.skip("uv is not installed")
    wheel = next(Path(index_environ["PIP_FIND_LINKS"]).glob("prebuilt-*.whl"))
    page = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()

    def answer(_host: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/simple/prebuilt/":
            return 200, {"Content-Type": "text/html"}, page
        return (200, {}, wheel.read_bytes()) if path.endswith(".whl") else (404, {}, b"")

    index = {"PIP_INDEX_URL": "https://index.example/simple", "UV_DEFAULT_INDEX": "https://index.example/simple"}
    index |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}
    index |= {"UV_NO_CACHE": "1", "UV_HTTP_RETRIES": "0"}
    new, wanted = tmp_path / "new", replace(DESCRIPTION, requirements=("prebuilt",))
    with InterceptingProxy(tmp_path, ("index.example",), answer) as proxy:
        trusting, unaware = ({**drop_installers(every), **index} for every in (proxy.trusting, proxy.environ))
        PipInstaller(trusting).create(new, sys.executable, lambda _: None)  # uv would ask the index for pip
        make = PipInstaller if kind == "pip" else partial(UvInstaller, Path(uv))
        with pytest.raises(InfrastructureError, match=r"(?i)certificate|UnknownIssuer"):
            make(unaware).install(new, wanted, lambda _: None)
        make(trusting).install(new, wanted, lambda _: None)
        assert f"index.example/{wheel.name}" in proxy.asked


def drop_installers(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(("PIP_", "UV_"))}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("exit 0", "the installer succeeded and made no bin/python"),
        ("exit 3", "ended with 3 and said nothing"),
        ("kill -9 $$", "ended with -9 and said nothing"),
        ("printf 'error: \\377 broken\\n' >&2; exit 2", "error: . broken"),
    ],
)
def test_a_broken_uv_is_one_line(lines: str, said: str, tmp_path: Path) -> None:
    program = tmp_path / "uv"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    with pytest.raises(InfrastructureError, match=said) as failed:
        UvInstaller(program, dict(os.environ)).create(tmp_path / "new", sys.executable, lambda _: None)
    assert "\n" not in str(failed.value)


def test_an_installer_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A build is killed: what it started must not write into the next build of the same directory."""
    step = "from ci.environments.installer import run_step; import os, sys; run_step(sys.argv[1:], os.environ)"
    words = ["sh", "-c", f"echo $$ > {tmp_path}/pid.part && mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 600"]
    with subprocess.Popen([sys.executable, "-c", step, *words]) as killed:
        deadline = time.monotonic() + 120
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.kill()
    installer = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    while time.monotonic() < deadline and installer.exists() and ") Z " not in installer.read_text():
        time.sleep(0.02)
    assert not installer.exists() or ") Z " in installer.read_text()
