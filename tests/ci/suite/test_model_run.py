import re
from dataclasses import replace
from pathlib import Path

import pytest

from ci.settings import Settings
from ci.subjects.compile_cache import CompileCache
from ci.subjects.registry import find_offer
from ci.subjects.sandbox import Isolation
from ci.suite import model_run
from tests.ci.suite.samples import make_run


@pytest.mark.parametrize("shares", [True, False])
def test_a_subject_in_the_judges_interpreter_is_labelled_as_not_isolated(
    shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_run, "choose_isolation", lambda _: Isolation(Path("/usr/bin/bwrap"), "bubblewrap 0.8.0"))
    monkeypatch.setattr(model_run, "shares_interpreter", lambda *_: shares)
    said = "none: installed in hub-tests' own interpreter" if shares else "bubblewrap 0.8.0"
    assert make_run(tmp_path, subject="fast_llm").describe_isolation() == said


def test_an_adapter_that_only_its_file_names_is_found_again_by_every_test(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    run = make_run(tmp_path, subject=f"{root / 'examples/toy_adapter.py'}:ToySubject")
    assert (run.offer.name, find_offer(run.subject)) == ("toy", run.offer)
    suite_text = (root / "tests/integration/test_hub_integration.py").read_text()
    assert not re.findall(r"[\w.]+\((?:[^()]*, )?pipeline\.run\.offer\.name\b", suite_text), "its name finds no adapter"


def test_the_compile_cache_comes_from_the_option_else_the_environment(tmp_path: Path) -> None:
    settings = Settings(tmp_path, compile_cache=tmp_path / "of the machine")
    run = make_run(tmp_path, settings=settings)
    assert make_run(tmp_path).compile_cache is None
    assert run.compile_cache == CompileCache(tmp_path / "of the machine")
    chosen = replace(run.options, compile_cache=tmp_path / "mine", fill_compile_cache=True)
    assert replace(run, options=chosen).compile_cache == CompileCache(tmp_path / "mine", fill=True)
