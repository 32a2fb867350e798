"""The program of the first engine, in this process: what it renders is what transformers renders."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from ci.chat_templates import jinja2_program
from ci.chat_templates.conversations import Conversation, generate_conversations
from tests.ci.chat_templates.template_samples import CHATML, TOKENS


def run(monkeypatch: pytest.MonkeyPatch, templates: list[str], conversations: tuple[Conversation, ...]) -> list[Any]:
    monkeypatch.setattr(chat_template_utils, "datetime", chat_template_utils.datetime)  # undone afterwards
    request = {
        "templates": [{"side": i, "template": text, "tokens": TOKENS} for i, text in enumerate(templates)],
        "conversations": [asdict(one) for one in conversations],
    }
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answers:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        jinja2_program.main(os.dup(asked.fileno()), os.dup(answers.fileno()))
        answers.seek(0)
        return [json.loads(line) for line in answers.read().splitlines()]


def test_the_first_line_names_the_engine_and_each_other_one_a_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = generate_conversations(10)
    first, *lines = run(monkeypatch, [CHATML, "{% if %}"], asked)
    assert first["engine"].startswith("Jinja2 3.")
    assert [(line["index"], line["side"]) for line in lines] == [(i, side) for i in range(10) for side in (0, 1)]
    expected, _ = chat_template_utils.render_jinja_template(
        [list(asked[0].messages)],
        chat_template=CHATML,
        add_generation_prompt=asked[0].add_generation_prompt,
        **TOKENS,
        **asked[0].switches,
    )
    assert lines[0]["text"] == expected[0]
    assert lines[1]["refusal"].startswith("TemplateSyntaxError")


def test_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    _, *lines = run(monkeypatch, ["{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}"], generate_conversations(3))
    assert {line["text"] for line in lines} == {"2026-02-03 04:05:06.000000"}


def test_a_text_without_end_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    _, line = run(monkeypatch, ["{% for i in range(90000) %}abc{% endfor %}"], generate_conversations(1))
    assert line["refusal"] == "more than 200000 characters"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ namespace(__class__=1) }}",
    ],
)
def test_a_template_stays_in_jinjas_sandbox(monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    _, line = run(monkeypatch, [attack], generate_conversations(1))
    assert "SecurityError" in line["refusal"] or "UndefinedError" in line["refusal"]
