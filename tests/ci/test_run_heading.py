"""The first line of a run, and the refusal of a reference where a framework was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import run_heading
from ci.errors import RequestError
from ci.run_heading import check_default_subject, format_heading
from ci.run_options import RunOptions
from ci.subjects.sandbox import Isolation


@pytest.fixture(autouse=True)
def no_framework_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.subjects.registry.find_spec", lambda name: None if name == "fast_llm" else object())
    monkeypatch.setattr(run_heading, "choose_isolation", lambda _: Isolation(Path("/bwrap"), "bubblewrap 0.8.0"))
    monkeypatch.setattr(run_heading, "GPU_FILES", ())


def make_checkout(root: Path, version: str = "0.4.0") -> Path:
    (root / "fast_llm").mkdir(parents=True)
    (root / "fast_llm" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    return root


def test_the_reference_is_said_to_be_no_framework() -> None:
    line = format_heading(RunOptions())
    assert line.startswith("reference ")
    assert "says nothing about a training framework" in line
    assert line.endswith(" on cpu, isolation not needed")


def test_a_framework_is_named_with_version_commit_device_and_isolation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = make_checkout(tmp_path / "Fast-LLM")
    monkeypatch.setattr(run_heading, "read_commit", lambda path, _: "1a2b3c4d5e6f7788" if path == checkout else None)
    options = RunOptions(
        "fast_llm", subject_python=tmp_path / "env/bin/python", subject_path=(checkout,), device="cuda"
    )
    assert format_heading(options) == "fast_llm 0.4.0 1a2b3c4d5e6f on cuda, isolated by bubblewrap 0.8.0"


def test_an_installed_version_is_read_without_running_it(tmp_path: Path) -> None:
    info = tmp_path / "env/lib/python3.12/site-packages/fast_llm-0.3.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast-llm\nVersion: 0.3.1\n")
    line = format_heading(RunOptions("fast_llm", subject_python=tmp_path / "env/bin/python"))
    assert line.startswith("fast_llm 0.3.1 on cpu")


def test_a_pinned_address_names_its_commit() -> None:
    source = f"https://host/owner/name@{'ab' * 20}"
    line = format_heading(RunOptions("fast_llm", subject_python=Path("/env/bin/python"), subject_source=source))
    assert "fast_llm abababababab on cpu" in line


def test_no_sandbox_is_said_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_heading, "choose_isolation", lambda _: Isolation(None, "switched off by --isolation none"))
    line = format_heading(RunOptions("fast_llm", subject_python=Path("/env/bin/python")))
    assert line.endswith("NOT ISOLATED: switched off by --isolation none")


@pytest.mark.parametrize("variable", ["FAST_LLM_PATH", "HUB_TESTS_FAST_LLM_PYTHON"])
def test_a_variable_that_means_the_framework_is_no_silent_fall_back(variable: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"\${variable} points to fast_llm, which cannot be imported here"):
        check_default_subject(RunOptions(), {variable: "/x"}, tmp_path)
    check_default_subject(RunOptions(), {variable: ""}, tmp_path)


def test_a_checkout_that_means_the_framework_is_no_silent_fall_back(tmp_path: Path) -> None:
    below = make_checkout(tmp_path / "Fast-LLM") / "docs"
    with pytest.raises(RequestError, match=r"the checkout .*Fast-LLM points to fast_llm"):
        check_default_subject(RunOptions(), {}, below)
    check_default_subject(RunOptions(), {}, tmp_path)


@pytest.mark.parametrize(
    "named", [RunOptions("reference"), RunOptions(subject_python=Path("/p")), RunOptions(environment="fast_llm")]
)
def test_a_named_subject_is_taken_at_its_word(named: RunOptions, tmp_path: Path) -> None:
    check_default_subject(named, {"FAST_LLM_PATH": "/x"}, make_checkout(tmp_path / "Fast-LLM"))


def test_an_adapter_that_only_its_file_names_has_a_heading() -> None:
    """Also before it has an interpreter: its offer's name is no name of the registry."""
    toy = Path(__file__).parents[2] / "examples/toy_adapter.py"
    assert format_heading(RunOptions(f"{toy}:ToySubject", device="cpu")).startswith("toy")
