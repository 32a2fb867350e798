"""The comment command: what counts as one, what it means, and that it survives anything."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ci.consumers.registry import CONSUMERS
from ci.errors import RequestError
from ci.github.command import COMMAND, MAX_LAYERS, Command, parse_command
from ci.hub.slices import Slice
from ci.models import RESERVED

SHA = "0123456789abcdef" * 2 + "01234567"

selectors = st.one_of(
    st.from_regex(r"@[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True),
    st.from_regex(r"[a-z0-9*?\[][a-z0-9_*?\[\]!-]{0,20}", fullmatch=True),
).filter(lambda word: word not in RESERVED)
PICKS = st.sets(st.integers(0, 9999), min_size=2, max_size=5).map(lambda picked: tuple(sorted(picked)))
runs = st.builds(
    Command,
    models=st.lists(selectors, max_size=5).map(tuple),
    layers=st.one_of(st.none(), st.just("auto"), st.integers(1, MAX_LAYERS), PICKS),
    slice=st.one_of(st.none(), st.builds(Slice, st.integers(1, 10**8), st.none() | st.integers(1, 512))),
    sha=st.one_of(st.none(), st.from_regex(r"[0-9a-f]{40}", fullmatch=True)),
    plan=st.booleans(),
    deep=st.booleans(),
    consumer=st.sampled_from([None, *CONSUMERS]),
)


@given(runs)
def test_what_is_printed_is_read_back(command: Command) -> None:
    assert parse_command(command.format_line()) == command


@given(runs, st.sampled_from(["\n", "\r\n", "\n\n--sha nonsense\n@someone", "  \t\n/run-hub-tests cancel"]))
def test_only_the_first_line_counts(command: Command, tail: str) -> None:
    assert parse_command(command.format_line() + tail) == command


@given(st.text())
@example(COMMAND + " \u2014layers 3")
@example(COMMAND + " --sha=" + "\uff11" * 40)
@example(COMMAND + " --layers \u0661")
def test_any_text_is_a_command_a_refusal_or_nothing(body: str) -> None:
    for text in (body, f"{COMMAND} {body}"):
        command = None
        with contextlib.suppress(RequestError):
            command = parse_command(text)
        assert command is None or (text.startswith(COMMAND) and parse_command(command.format_line()) == command)


@pytest.mark.parametrize(
    "body",
    [
        "",
        " /run-hub-tests",
        "/Run-Hub-Tests",
        "/run-hub-testsx",
        "/run-hub-tests\u00a0smollm2",
        "> /run-hub-tests",
        "please\n/run-hub-tests",
        "`/run-hub-tests`",
    ],
)
def test_not_a_command(body: str) -> None:
    assert parse_command(body) is None


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("", Command()),
        ("help", Command("help")),
        ("cancel", Command("cancel")),
        ("mixtral @moe qwen2-*", Command(models=("mixtral", "@moe", "qwen2-*"))),
        ("--layers 4 mixtral", Command(models=("mixtral",), layers=4)),
        ("--layers=auto", Command(layers="auto")),
        ("--layers 0,3", Command(layers=(0, 3))),
        ("--slice vocab=4096,experts=4", Command(slice=Slice(4096, 4))),
        ("mixtral --slice=experts=4", Command(models=("mixtral",), slice=Slice(experts=4))),
        (f"--sha {SHA.upper()}", Command(sha=SHA)),
        ("--failed --plan", Command(failed=True, plan=True)),
        ("mixtral --deep", Command(models=("mixtral",), deep=True)),
        ("mixtral --consumer vllm", Command(models=("mixtral",), consumer="vllm")),
        ("--consumer=transformers", Command(consumer="transformers")),
    ],
)
def test_meaning(words: str, command: Command) -> None:
    assert parse_command(f"{COMMAND} {words}") == command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--layer 3", "Did you mean '--layers'?"),
        ("--layers", "expected a number from 1 to 1000, or auto"),
        ("--layers 0", "'--layers 0'"),
        ("--layers two", "'--layers two'"),
        ("--layers 3,0", "ascending indices"),
        ("--layers 0,", "'--layers 0,'"),
        ("--slice", "'--slice ': expected vocab=V"),
        ("--slice vocab=0", "'--slice vocab=0'"),
        ("--slice rows=3", "like vocab=4096,experts=4"),
        ("--slice vocab=3 --slice=experts=2", "given twice"),
        ("--sha abc", "40 hexadecimal digits"),
        ("--sha=main", "40 hexadecimal digits"),
        ("--layers 1 --layers=2", "given twice"),
        ("--plan=yes", "takes no value"),
        ("--deep=yes", "takes no value"),
        ("--consumer", "'--consumer ': expected vllm or transformers."),
        ("--consumer vlm", "Did you mean 'vllm'?"),
        ("--failed mixtral", "leave the models out"),
        ("Mixtral", "names are lower-case"),
        ("$(reboot)", "is not a model name"),
        ("mixtral; rm", "is not a model name"),
        ("../../etc", "is not a model name"),
        ("help me", "'help' must be the only word"),
        ("mixtral cancel", "'cancel' must be the only word"),
        ("\u2014plan", "U+2014"),
        ("x" * 2000, "at most 2000 are read"),
    ],
)
def test_refused_in_one_line(words: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as refusal:
        parse_command(f"{COMMAND} {words}")
    assert "\n" not in str(refusal.value)


def test_bisect_takes_one_name_and_nothing_else() -> None:
    assert parse_command(f"{COMMAND} bisect mixtral") == Command("bisect", ("mixtral",))
    assert Command("bisect", ("mixtral",)).format_line() == f"{COMMAND} bisect mixtral"
    for words in ("", "mixtral llama", "mixtral --deep", "--deep", "@moe", "mist*", "bisect", "help"):
        with pytest.raises(RequestError, match="'bisect' takes one model's name and nothing else"):
            parse_command(f"{COMMAND} bisect {words}".rstrip())
    with pytest.raises(RequestError, match="'bisect' must be the first word"):
        parse_command(f"{COMMAND} mixtral bisect")
