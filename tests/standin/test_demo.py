"""The demo chooses the Hub that answers and passes on what the run says."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci.models import REGISTRY, load_models
from ci.report.report_files import write_report
from tests.ci.report import samples
from tests.standin import demo
from tests.standin.fixtures import hub
from tests.standin.trained import ALIAS
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.server import HubServer

__all__ = ["hub"]


@pytest.fixture
def served(hub: HubServer, tmp_path: Path) -> HubServer:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text("{}")
    hub.add(ALIAS, tmp_path / "repo")
    return hub


def test_a_hub_that_answers_is_used(served: HubServer) -> None:
    assert demo.find_hub_problem(served.endpoint) is None


def test_reasons_not_to_use_it(served: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    served.faults.inject(Fault("status", status=503, origin="hub"), Fault("hang", 60))
    assert demo.find_hub_problem(served.endpoint) == "status 503"
    monkeypatch.setattr(demo, "TIMEOUT_SECONDS", 0.2)
    assert "timed out" in str(demo.find_hub_problem(served.endpoint))
    assert "refused" in str(demo.find_hub_problem("http://127.0.0.1:9"))


@pytest.mark.parametrize("code", [0, 1, 3])
def test_exit_code_and_environment_are_passed_on(
    served: HubServer, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f"import os; print(os.environ['HF_ENDPOINT'], os.environ.get('HF_TOKEN')); raise SystemExit({code})"
    monkeypatch.setattr(demo, "COMMAND", [sys.executable, "-c", script, "", ""])
    assert demo.run(demo.make_environ({"HF_TOKEN": "secret", "PATH": ""}, served)) == code
    assert f"{served.endpoint} None" in capfd.readouterr().out


@pytest.mark.long
def test_without_a_hub_the_standin_serves(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    ask = f"u.urlopen(os.environ['HF_ENDPOINT'] + '/api/models/{ALIAS}')"
    fetch = f"import os, urllib.request as u; {ask}"
    monkeypatch.setattr(demo, "COMMAND", [sys.executable, "-c", fetch, "", ""])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert demo.main() == 0
    said = capfd.readouterr().out
    assert "using the stand-in on loopback" in said
    assert "alias of HuggingFaceTB/SmolLM2-135M-Instruct" in said


def test_serve_prints_an_endpoint_that_works() -> None:
    command = [sys.executable, "-m", "tests.standin", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=demo.CHECKOUT) as serving:
        assert serving.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("export "):
            lines.append(serving.stdout.readline())
            assert lines[-1], "it ended before it served"
        endpoint = lines[-1].split("=")[1].split()[0]
        assert demo.find_hub_problem(endpoint) is None
        serving.terminate()
    assert any("mistralai/Mixtral-8x7B-v0.1" in line for line in lines)


def test_the_pages_have_the_whole_registry(tmp_path: Path) -> None:
    write_report(samples.passing(), tmp_path)
    assert [path.name for path in demo.write_pages(tmp_path)] == ["index.html", "matrix.html"]
    page = (tmp_path / "matrix.html").read_text()
    models = {model.checkpoint_format for model in load_models(REGISTRY).values()}
    assert "mistral" in models
    untested = [line for line in page.splitlines() if "no model of this format is in the registry" in line]
    assert not [line for line in untested for name in models if f"<td>{name}</td>" in line]


def test_the_demo_begins_without_bars_which_are_read_when_their_module_is_imported() -> None:
    makefile = (demo.CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert "TQDM_DISABLE=1 $(RUN)/python -m tests.standin.demo\n" in makefile
