"""A proxy that breaks TLS open: with the variables of a slot's unit, each client of a job trusts its authority."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.environments.installer import find_uv
from hub_runner import slot_checks
from hub_runner.config import ProxySettings
from hub_runner.config_file import find_problems
from hub_runner.install import find_install_problems
from hub_runner.render import render_host_files
from hub_runner.slot_checks import diagnose_slot
from tests.intercepting_proxy import CERTIFICATES, InterceptingProxy
from tests.runner_setup.conftest import config_text
from tests.runner_setup.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout

HOST = "behind.example"
MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'
ASK_GITHUB = """
import os
from dataclasses import dataclass, replace
from ci.github.client import Client
from ci.github.context import read_context
@dataclass
class Thing:
    id: int
with Client(replace(read_context(os.environ).api, max_retries=0)) as client:
    client.get(Thing, "/thing")
"""
PYTHON_CLIENTS = {
    "GitHub client": ASK_GITHUB,
    "Hub client": f"from huggingface_hub import get_session; get_session().head('https://{HOST}/m').raise_for_status()",
    "update of the runner": f"import urllib.request; urllib.request.urlopen('https://{HOST}/m')",
}


def answer(_host: str, path: str) -> tuple[int, dict[str, str], bytes]:
    if path.endswith("/manifests/tag"):
        return 200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, MANIFEST
    if path.endswith("/info/refs"):
        return 200, {"Content-Type": "text/plain"}, b"1" * 40 + b"\trefs/heads/main\n"
    if path.startswith("/simple/"):
        return 200, {"Content-Type": "text/html"}, b'<a href="/prebuilt-1.0-py3-none-any.whl">x</a>'
    return 200, {"Content-Type": "application/json"}, b'{"id": 7}'


def list_commands() -> dict[str, list[str]]:
    """Each client as a job's step, or a unit of the host, starts it; the packages are not fetched."""
    index = f"https://{HOST}/simple"
    uv = find_uv(os.environ) or "uv"
    return {
        **{name: [sys.executable, "-c", code] for name, code in PYTHON_CLIENTS.items()},
        "git": ["git", "ls-remote", f"https://{HOST}/org/repo"],
        "pip": [sys.executable, "-m", "pip", "index", "versions", "prebuilt", "--index-url", index, "--retries=0"],
        "uv": [uv, "pip", "compile", "-", "--no-deps", "--default-index", index, "--no-cache"],
        "skopeo": ["skopeo", "inspect", "--raw", f"docker://{HOST}/org/image:tag"],
    }


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InterceptingProxy]:
    with InterceptingProxy(tmp_path_factory.mktemp("proxy"), (HOST,), answer) as proxy:
        yield proxy


def make_host(config: Config, proxy: InterceptingProxy, file: Path | str) -> Config:
    return replace(config, proxy=ProxySettings(proxy.environ["HTTPS_PROXY"], without=("::1",), certificates=str(file)))


def read_unit(config: Config, unit: str) -> dict[str, str]:
    text = render_host_files(config)[f"etc/systemd/system/{unit}"].text
    return dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))


def of_network(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a unit that a client reads, without paths of the host."""
    return {name: value for name, value in variables.items() if name in CERTIFICATES or "proxy" in name.lower()}


def start(name: str, variables: Mapping[str, str], home: Path) -> subprocess.CompletedProcess[str]:
    """Start a client with what a unit gives it, and nothing of this process's own about networks."""
    words = {"HOME": str(home), "PATH": os.environ["PATH"], "UV_HTTP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    words |= {"GITHUB_API_URL": f"https://{HOST}", "GITHUB_REPOSITORY": "o/r", "GITHUB_TOKEN": "t"}
    words |= {"UV_PYTHON": sys.executable, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command, environ = list_commands()[name], {**words, **variables}
    return subprocess.run(
        command, env=environ, cwd=REPOSITORY, input="prebuilt==1.0\n", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", list(list_commands()))
def test_each_client_of_a_slot_trusts_the_proxys_authority(
    name: str, config: Config, proxy: InterceptingProxy, tmp_path: Path
) -> None:
    if name == "skopeo" and shutil.which("skopeo") is None:
        pytest.skip("apt-get install skopeo")
    slot = config.get_slot(0).unit
    asked = len(proxy.asked)
    trusting = of_network(read_unit(make_host(config, proxy, proxy.certificates), slot))
    done = start(name, trusting, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(proxy.asked) > asked
    asked = len(proxy.asked)
    unaware = start(name, of_network(read_unit(make_host(config, proxy, ""), slot)), tmp_path)
    assert unaware.returncode
    assert re.search(r"(?i)certificate|UnknownIssuer", unaware.stdout + unaware.stderr)
    assert len(proxy.asked) == asked


def test_the_certificates_reach_whatever_has_a_network_and_nothing_else(config: Config) -> None:
    file = "/etc/ssl/certs/ca-certificates.crt"
    host = replace(config, proxy=ProxySettings(certificates=file))  # a proxy may be nobody's choice
    files = render_host_files(host)
    told = {path for path, text in files.items() if f"Environment=SSL_CERT_FILE={file}\n" in text.text}
    through = render_host_files(replace(config, proxy=ProxySettings("http://10.0.0.8:3128")))
    assert told == {path for path, text in through.items() if "Environment=https_proxy=" in text.text}
    assert not any("_proxy=" in text.text for text in files.values())
    for path in told:
        assert set(CERTIFICATES) - {"SSL_CERT_DIR"} <= set(read_unit(host, path.rpartition("/")[2])), path
    assert not any("SSL_CERT_FILE" in text.text for text in render_host_files(config).values())


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("/etc/ssl/certs/ca-certificates.crt", ""),
        ("/usr/local/share/ca-certificates/company.crt", ""),
        ("ca.pem", "give an absolute path without spaces"),
        ("/etc/ssl/my ca.pem", "give an absolute path without spaces"),
        ("/etc/ssl/../../root/ca.pem", "give an absolute path without spaces"),
        ("/root/ca.pem", "jobs see nothing of /root: put the file below /etc/ssl"),
        ("/etc/hub-runner/ca.pem", "jobs see nothing of /etc/hub-runner"),
        ("/srv/hub-tests/ca.pem", "jobs see nothing of /srv/hub-tests"),
    ],
)
def test_a_path_that_jobs_do_not_see_is_refused(config: Config, file: str, problem: str) -> None:
    told = find_problems(replace(config, proxy=ProxySettings(certificates=file)))
    assert len(told) == bool(problem)
    assert problem in "".join(told)


def test_a_file_that_cannot_be_used_stops_the_installation(
    config: Config, proxy: InterceptingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(file: Path) -> list[str]:
        host = make_host(config, proxy, file)
        return [line for line in find_install_problems(host) if line.startswith("proxy.certificates: ")]

    (missing,) = told(tmp_path / "none.pem")
    assert "No such file or directory: name a PEM file of all authorities" in missing
    (tmp_path / "text.pem").write_text("no certificate")
    (not_pem,) = told(tmp_path / "text.pem")
    assert "not a PEM file of certificates" in not_pem
    open_ = [path for path in (tmp_path, *tmp_path.parents) if not path.stat().st_mode & 0o001]
    closed = tmp_path / "closed.pem"
    shutil.copy(proxy.certificates, closed)
    closed.chmod(0o600)
    assert told(closed) == [f"proxy.certificates: jobs may not read {closed}: chmod o+rX {closed}"]
    closed.chmod(0o644)
    assert [line.split()[-1] for line in told(closed)] == [str(path) for path in open_[:1]]
    monkeypatch.setattr("ci.certificates.time.time", lambda: 4e9)
    (expired,) = told(closed)
    assert "a company expired: put the authority's new certificate there" in expired


def test_the_slots_doctor_looks_at_them(
    config: Config, layout: Layout, proxy: InterceptingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Mapping[str, str]] = []

    def probe(_request: object, environ: Mapping[str, str]) -> None:
        seen.append(environ)
        raise InterruptedError

    monkeypatch.setattr(slot_checks, "probe_host", probe)
    for file in (str(proxy.certificates), ""):
        with pytest.raises(InterruptedError):
            diagnose_slot(make_host(config, proxy, file), config.get_slot(0), layout, None)  # type: ignore[arg-type]
    assert [environ.get("SSL_CERT_FILE", "") for environ in seen] == [str(proxy.certificates), ""]
    assert not any("proxy" in name.lower() for name in seen[0])  # the supervisor has no network


def test_the_example_shows_the_key() -> None:
    assert '# certificates = "/etc/ssl/certs/ca-certificates.crt"' in config_text()
