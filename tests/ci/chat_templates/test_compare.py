"""Two renderings of a conversation are equal, or the difference is located. The engine runs in this process here."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
from transformers.utils import chat_template_utils

from ci.chat_templates import compare
from ci.chat_templates.compare import EngineJudgement, TemplateJudgement, judge_rewritten_templates, judge_run
from ci.chat_templates.conversations import find_roles, generate_conversations
from ci.chat_templates.engines import find_engines
from ci.chat_templates.jinja2_program import _render
from ci.chat_templates.render import EngineRun, Rendering
from ci.companion_files import CompanionDirectory
from ci.subjects.sandbox import NO_SANDBOX
from tests.ci.chat_templates.template_samples import CHATML, PLANTED, REWRITTEN, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from ci.chat_templates.render import Template


def render_both(before: str, after: str) -> EngineRun:
    """Render as the first engine's program does."""
    renderings = []
    for index, conversation in enumerate(generate_conversations(roles=find_roles((before, after)))):
        plain = json.loads(json.dumps(asdict(conversation)))
        for side, text in enumerate((before, after)):
            shown = _render(chat_template_utils, {"template": text, "tokens": TOKENS}, plain)
            renderings.append(Rendering(index=index, side=side, **shown))
    return EngineRun("engine", tuple(renderings))


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_says_the_same_is_equal(name: str) -> None:
    before, after = REWRITTEN[name]
    assert before != after
    judged = judge_run(render_both(before, after), 200)
    assert judged.equal, str(judged)
    assert judged.rendered >= 60


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_located(name: str) -> None:
    before, after = PLANTED[name]
    assert before != after
    judged = judge_run(render_both(before, after), 200)
    assert not judged.equal
    assert judged.difference.startswith("conversation "), str(judged)


def renderings(*texts: str | None) -> tuple[Rendering, ...]:
    """Return pairs: the same text on both sides, but for the last pair."""
    return tuple(
        Rendering(index=i // 2, side=i % 2, text=text, refusal="no" * (text is None)) for i, text in enumerate(texts)
    )


def test_a_refusal_of_both_is_equal_and_one_of_one_side_is_not() -> None:
    same = ("a", "a") * 30
    assert judge_run(EngineRun("e", renderings(*same, None, None)), 31).equal
    for pair, who in (((None, "a"), "the original"), (("a", None), "the export")):
        judged = judge_run(EngineRun("e", renderings(*same, *pair)), 31)
        assert judged.difference == f"conversation 30: only {who} refuses (no)"


def test_the_place_of_a_difference_is_shown() -> None:
    judged = judge_run(EngineRun("e", renderings(*("a", "a") * 30, "one two", "one too")), 31)
    assert judged.difference == "conversation 30, character 5: 'one two' became 'one too'"
    longer = judge_run(EngineRun("e", renderings(*("a", "a") * 30, "one", "one\n")), 31)
    assert longer.difference == "conversation 30, character 3: 'one' became 'one\\n'"


def test_an_engine_that_hardly_renders_the_original_has_not_judged() -> None:
    judged = judge_run(EngineRun("e", renderings(*(None, None) * 190, *("a", "a") * 10)), 200)
    assert not judged.equal
    assert judged.problem.startswith("the original renders 10 of 200 conversations in it")


def test_an_engine_that_stopped_says_at_which_template() -> None:
    assert (
        "while the exported template rendered conversation 0"
        in judge_run(EngineRun("e", renderings("a"), "it did not end within 1 s"), 200).problem
    )
    assert (
        "while the original template rendered conversation 1"
        in judge_run(EngineRun("e", renderings("a", "a"), "it did not end within 1 s"), 200).problem
    )
    assert judge_run(EngineRun("e", (), "node is not installed"), 200).problem == "node is not installed"


def test_a_template_is_held_by_two_engines_and_not_by_one() -> None:
    equal, absent = EngineJudgement("a", 200, 180, 20), EngineJudgement("b", problem="node is not installed")
    other = EngineJudgement("b", 200, 180, 20, difference="conversation 3: x")
    assert TemplateJudgement((equal, equal)).held
    assert not TemplateJudgement((equal, absent)).held
    assert not TemplateJudgement((equal, other)).held
    assert str(TemplateJudgement((equal, absent))) == (
        "only one engine judged; a: equal on 200 conversations (180 rendered, 20 refused by both); "
        "b did not judge: node is not installed"
    )
    assert "only one" not in str(TemplateJudgement((equal, other)))


def test_each_side_gets_its_own_special_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Template, Template]] = []
    equal = TemplateJudgement((EngineJudgement("a"), EngineJudgement("b")))

    def keep(one: Template, other: Template, _: object) -> TemplateJudgement:
        asked.append((one, other))
        return equal

    monkeypatch.setattr(compare, "compare_templates", keep)
    directories = {name: tmp_path / name for name in ("original", "exported")}
    for name, eos in (("original", "</s>"), ("exported", "<|end|>")):
        directories[name].mkdir()
        (directories[name] / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        (directories[name] / "chat_template.jinja").write_text(CHATML + f"{{# {name} #}}")
    original, exported = (CompanionDirectory(path) for path in directories.values())
    assert judge_rewritten_templates(original, exported, NO_SANDBOX) == {"default": equal}
    assert [one.tokens["eos_token"] for pair in asked for one in pair] == ["</s>", "<|end|>"]
    (directories["exported"] / "tokenizer_config.json").unlink()
    judge_rewritten_templates(original, exported, NO_SANDBOX)
    assert asked[-1][1].tokens == {"eos_token": "</s>"}
    assert judge_rewritten_templates(original, original, NO_SANDBOX) == {}


def test_each_named_template_is_judged_by_both_engines_wherever_it_moves(tmp_path: Path) -> None:
    """A list of named templates in tokenizer_config.json becomes the file and the folder, as transformers writes it."""
    missing = next((engine.absent for engine in find_engines() if engine.absent), "")
    if missing:
        pytest.skip(f"no second engine for chat templates: {missing}")
    (before, same), (other, wrong) = next(iter(REWRITTEN.values())), next(iter(PLANTED.values()))
    directories = tmp_path / "original", tmp_path / "exported"
    for directory in directories:
        directory.mkdir()
    named = [{"name": "default", "template": before}, {"name": "tool_use", "template": other}]
    (directories[0] / "tokenizer_config.json").write_text(json.dumps({**TOKENS, "chat_template": named}))
    (directories[1] / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    (directories[1] / "chat_template.jinja").write_text(same)
    (directories[1] / "additional_chat_templates").mkdir()
    (directories[1] / "additional_chat_templates" / "tool_use.jinja").write_text(wrong)
    original, exported = map(CompanionDirectory, directories)
    judged = judge_rewritten_templates(original, exported, NO_SANDBOX)
    assert {name: (one.held, one.differs) for name, one in judged.items()} == {
        "default": (True, False),
        "tool_use": (False, True),
    }
    assert [one.engine.partition(" ")[0] for one in judged["default"].engines] == ["Jinja2", "@huggingface/jinja"]
