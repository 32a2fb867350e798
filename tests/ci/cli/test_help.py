"""The help of every verb: it fits the terminal, names kinds of values by words, and suggests one likely option."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main

from ci import __main__ as cli
from ci.cli.help import EXAMPLES, complete_models, format_help
from ci.models import load_models


def list_verbs() -> dict[str, tuple[Any, Any]]:
    """Every command with its context, by its words."""
    root: Any = typer.main.get_command(cli.app)
    found, waiting = {}, [(root, root.make_context("hub-tests", [], resilient_parsing=True))]
    while waiting:
        command, context = waiting.pop()
        found[context.command_path.removeprefix("hub-tests ")] = (command, context)
        for name in getattr(command, "commands", {}):
            verb = command.get_command(context, name)
            waiting.append((verb, verb.make_context(name, [], parent=context, resilient_parsing=True)))
    return found


VERBS = list_verbs()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_without_a_broken_word(verb: str, width: int) -> None:
    text, wide = format_help(*VERBS[verb], width=width), format_help(*VERBS[verb], width=120)
    assert max(map(len, text.splitlines())) <= width
    assert set(text.split()) - {"\\"} <= set(wide.split())


@pytest.mark.parametrize("verb", VERBS)
def test_kinds_of_values_are_words(verb: str) -> None:
    text = format_help(*VERBS[verb], width=120)
    assert not re.search(r"<\w+|--[\w-]+ (?:TEXT|INTEGER|FLOAT|BOOLEAN|PATH|STR)\b", text)
    assert "-h, --help" in text


def test_choices_and_units_are_named() -> None:
    text = format_help(*VERBS["run"], width=120)
    for shown in ("--device cpu|cuda", "--timeout SECONDS", "--report DIR", "--registry FILE", "--workers N"):
        assert shown in text, shown
    assert "--deep " in text
    assert format_help(*VERBS["env build"]).startswith("Usage: hub-tests env build [OPTIONS] ENVIRONMENT\n")


@pytest.mark.parametrize("verb", EXAMPLES)
def test_an_example_is_a_command_that_is_understood(verb: str) -> None:
    assert verb in VERBS
    lines = EXAMPLES[verb]
    assert lines
    for line in lines:
        words = [word.strip("'") for word in line.split()[1:]]
        deepest = max((name for name in VERBS if words[: len(name.split())] == name.split()), key=len)
        command, context = VERBS[deepest]
        command.make_context(deepest, words[len(deepest.split()) :], parent=context.parent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "x", "--devcie", "cpu"], "No such option: --devcie. Did you mean '--device'?"),
        (["run", "x", "--subject-pyton=x"], "Did you mean '--subject-python'?"),
        (["run", "x", "--qqqq"], "No such option: --qqqq."),
        (["rnu"], "Did you mean 'run'?"),
        (["run", "mixtrall"], "Did you mean 'mixtral'?"),
        (["run", "MIXTRAL"], "Did you mean 'mixtral'?"),
        (["run", "HuggingFaceTB/SmolLM2-135M"], "Did you mean 'smollm2'?"),
        (["run", "x", "--device", "gpu"], "expected cpu or cuda"),
    ],
)
def test_one_likely_word_is_suggested(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert said in " ".join(err.split())
    assert err.count("Did you mean") <= 1
    assert "Possible options" not in err


def test_models_and_groups_are_completed() -> None:
    assert complete_models("mistral") == [name for name in load_models() if name.startswith("mistral")]
    assert "@moe" in complete_models("@")
