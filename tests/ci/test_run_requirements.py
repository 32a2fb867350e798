import re
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from ci import __main__ as cli
from ci import run_requirements
from ci.errors import RequestError
from ci.run_options import RunOptions
from ci.run_requirements import check_interpreter

ROOT = Path(__file__).parents[2]
REFERENCE = ("--subject", "reference")


def test_a_required_sandbox_is_refused_to_what_the_judges_own_interpreter_has_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_requirements, "shares_interpreter", lambda *_: True)
    options = RunOptions(subject="fast_llm", isolation="required")
    with pytest.raises(RequestError, match=r"installed in hub-tests' own interpreter .* --environment"):
        check_interpreter(options)
    check_interpreter(replace(options, isolation="auto"))


def test_a_bare_installation_is_a_wrong_request_and_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        run_requirements, "find_spec", lambda name: None if name in ("torch", "xdist") else find_spec(name)
    )
    assert cli.main(["run", "@default", *REFERENCE, "--report", str(tmp_path / "out")]) == 2
    assert capfd.readouterr().err == (
        "hub-tests: run needs torch, xdist: install hub-tests with its extra, hub-tests[suite]\n"
    )


def test_what_a_run_needs_is_what_the_extra_brings() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["suite"]
    brought = {re.split("[<>=]", word)[0].removeprefix("pytest-").removeprefix("Py").lower() for word in extra}
    assert set(run_requirements.SUITE_NEEDS) == brought - {"nvidia-ml-py"}, (
        "the doctor alone needs that one, and says so"
    )
