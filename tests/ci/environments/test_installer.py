"""uv where it is, else pip; an interpreter that runs and fits."""

from __future__ import annotations

import os
import sys
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
