"""Templates in processes with limits: both engines, in the sandbox where there is one."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.chat_templates.compare import EngineJudgement, TemplateJudgement, compare_templates, judge_run
from ci.chat_templates.conversations import find_roles, generate_conversations
from ci.chat_templates.engines import Engine, find_engines
from ci.chat_templates.render import Template, render_templates
from ci.subjects.sandbox import NO_SANDBOX, choose_isolation
from tests.ci.chat_templates.template_samples import CHATML, PLANTED, REWRITTEN, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from ci.chat_templates.render import EngineRun

JINJA2, OTHER = find_engines()
needs_both = pytest.mark.skipif(bool(OTHER.absent), reason=f"no second engine for chat templates: {OTHER.absent}")
LOOP = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"


def program(tmp_path: Path, text: str) -> Engine:
    """Return an engine that is a program of a few lines; `request` and `answers` are its descriptors."""
    file = tmp_path / "engine.py"
    file.write_text(f"import os, sys\nrequest, answers = map(int, sys.argv[1:])\n{text}\n")
    return Engine("sample", (sys.executable, "-I", str(file)))


PROBLEMS = {
    "it says nothing": ("", "it answered 0 of 4 times"),
    "it fails": ("sys.exit('no such thing')", "it ended with code 1: no such thing"),
    "it answers nonsense": ("os.write(answers, b'[]\\n')", "an answer: "),
    "it ends in the middle of a line": (
        'os.write(answers, b\'{"engine": "x"}\\n{"index": 0\')',
        "it answered 0 of 4 times",
    ),
    "it hangs": ("import time; time.sleep(600)", "it did not end within 3 s"),
    "it writes without end": ("while True: os.write(answers, b'x' * 2**20)", "it ended with code "),
    "it takes all memory": ("held = bytearray(2**33)", "it ended with code 1: MemoryError"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_program_that_goes_wrong_is_named(name: str, tmp_path: Path) -> None:
    text, expected = PROBLEMS[name]
    templates, asked = [Template("x", {}), Template("y", {})], generate_conversations(2)
    seconds = 3 if "hangs" in name else 300
    run = render_templates(program(tmp_path, text), templates, asked, NO_SANDBOX, seconds=seconds)
    assert run.problem.startswith(expected)


def test_an_engine_that_is_not_here_says_why() -> None:
    run = render_templates(Engine("e", absent="node is not installed"), [], (), NO_SANDBOX)
    assert (run.engine, run.problem, run.renderings) == ("e", "node is not installed", ())


def test_a_program_that_cannot_be_started_is_named() -> None:
    run = render_templates(Engine("e", ("/nonexistent",)), [Template("x", {})], generate_conversations(1), NO_SANDBOX)
    assert run.problem


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_jinja2_runs_in_a_process(mode: str) -> None:
    isolation = choose_isolation(mode)  # type: ignore[arg-type]
    asked = generate_conversations(30)
    run = render_templates(JINJA2, [Template(CHATML, TOKENS)], asked, isolation)
    assert run.problem == ""
    assert "transformers" in run.engine
    assert sum(one.text is not None for one in run.renderings) >= 15


PAIRS = {**REWRITTEN, **PLANTED}
BLIND = {"arguments are not JSON": "in JavaScript the text of an object is its JSON"}
"""A planted mistake that only the first engine finds, and why."""


@pytest.fixture(scope="module")
def judged() -> dict[str, list[EngineJudgement]]:
    """Judge every pair by both engines, each of which is started once."""
    roles = find_roles(text for pair in PAIRS.values() for text in pair)
    asked, isolation = generate_conversations(roles=roles), choose_isolation("auto")
    templates = [Template(text, TOKENS) for pair in PAIRS.values() for text in pair]
    runs = [render_templates(engine, templates, asked, isolation, seconds=240) for engine in (JINJA2, OTHER)]
    return {name: [judge_run(pick_pair(run, number), len(asked)) for run in runs] for number, name in enumerate(PAIRS)}


def pick_pair(run: EngineRun, number: int) -> EngineRun:
    picked = (replace(one, side=one.side % 2) for one in run.renderings if one.side // 2 == number)
    return replace(run, renderings=tuple(picked))


@pytest.mark.long
@needs_both
@pytest.mark.parametrize("name", REWRITTEN)
def test_both_engines_hold_a_rewritten_template(name: str, judged: dict[str, list[EngineJudgement]]) -> None:
    assert TemplateJudgement(tuple(judged[name])).held, judged[name]


@pytest.mark.long
@needs_both
@pytest.mark.parametrize("name", PLANTED)
def test_both_engines_find_a_planted_mistake(name: str, judged: dict[str, list[EngineJudgement]]) -> None:
    found = [bool(one.difference) for one in judged[name]]
    assert found == [True, name not in BLIND], judged[name]
    assert not TemplateJudgement(tuple(judged[name])).held


@pytest.mark.long
@needs_both
def test_a_template_without_end_is_stopped_in_both_engines() -> None:
    pair = (Template(CHATML, TOKENS), Template(LOOP, TOKENS))
    judged = compare_templates(*pair, choose_isolation("auto"), seconds=6)
    assert not judged.held
    assert all("while the exported template rendered conversation 0" in one.problem for one in judged.engines)
