"""Known refusals: what a registry may declare, and the words by which they are met."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.errors import RequestError
from ci.known_refusals import MAX_NAMED, KnownRefusal, LeftOut, describe_left_out, find_refusal
from ci.models import load_models, parse_model

KNOWN = {"subject": "fast_llm", "words": "HF config has unknown key 'x'", "since": "2026-11-25", "finding": "docs/a.md"}
REFUSAL = KnownRefusal(**KNOWN)


def entry(*refusals: Any) -> dict[str, Any]:
    return {"model_id": "org/name", "checkpoint_format": "llama", "known_refusals": list(refusals)}


def test_an_entry_declares_what_one_subject_refuses() -> None:
    model = parse_model("a", entry(KNOWN, {**KNOWN, "subject": "other"}))
    assert model.find_refusal("fast_llm") == REFUSAL
    assert model.find_refusal("reference") is None
    assert find_refusal((), "fast_llm") is None


@pytest.mark.parametrize(
    ("refusals", "says"),
    [
        (({**KNOWN, "word": "x"},), r"\[a\] known_refusals: unknown key 'word'. Did you mean 'words'"),
        (({**KNOWN, "words": "error"},), "words: expected 12 to 300 characters"),
        (({**KNOWN, "words": "{} and {} are unknown to {}"},), r"words: expected at most 2 parts that vary \({}\)"),
        (({**KNOWN, "words": "{} is {}, odd"},), "words: expected 12 to 300 characters"),
        (({**KNOWN, "words": " " * 20},), "words: expected 12 to 300 characters"),
        (({**KNOWN, "words": "two lines of\nwords"},), "words: expected 12 to 300 characters"),
        (({**KNOWN, "since": "yesterday"},), "since: 'yesterday' is not a date like"),
        (({**KNOWN, "since": "20261125"},), "since: '20261125' is not a date like"),
        (({**KNOWN, "finding": ""},), "finding: expected the address"),
        (({**KNOWN, "subject": ""},), "expected one table for each subject"),
        ((KNOWN, KNOWN), "expected one table for each subject"),
        (({"subject": "fast_llm"},), "known_refusals.0.words: Field required"),
        (("fast_llm",), "known_refusals"),
    ],
)
def test_what_no_registry_may_declare(refusals: tuple[Any, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parse_model("a", entry(*refusals))


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Fast-LLM, llama to fast_llm: ValueError: HF config has unknown key 'x'", True),
        ("ValueError: HF config has unknown key 'x' (fast_llm/engine/checkpoint/external.py:708)", True),
        ("HF  config has\n unknown key 'x'", True),
        ("ValueError: HF config has unknown key 'x' (value: False)", False),
        ("ValueError: HF config has unknown key 'x', 'y'", False),
        ("ValueError: no HF config has unknown key 'x'", False),
        ("HF config has unknown key 'x' (a.py:1) while handling another error", False),
        ("HF config has unknown key 'y'", False),
        ("hf config has unknown key 'x'", False),
        ("HF config has unknown key", False),
        ("", False),
    ],
)
def test_only_the_declared_words_are_the_refusal(sentence: str, said: bool) -> None:
    assert REFUSAL.is_said_in(sentence) is said


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("E: unknown key 'ssm_cfg.d_conv' (value: 4).", True),
        ("E: unknown key 'ssm_cfg.activation' (value: 'identity'). (a/b.py:7)", True),
        ("E: unknown key 'ssm_cfg.' (value: 4).", False),
        ("E: unknown key 'layer_types' (value: 4).", False),
        ("E: unknown key 'ssm_cfg.a b' (value: 4).", False),
        ("E: unknown key 'ssm_cfg.d_conv' (value: 4). And more.", False),
    ],
)
def test_a_part_that_varies_is_one_word(sentence: str, said: bool) -> None:
    varying = replace(REFUSAL, words="unknown key 'ssm_cfg.{}' (value: {}).")
    assert varying.is_said_in(sentence) is said


def test_one_line_names_what_is_left_out() -> None:
    assert describe_left_out([]) == ""
    one, two = LeftOut("a", REFUSAL), LeftOut("b", replace(REFUSAL, finding="docs/b.md"))
    line = "left out: a, b, known to be refused by fast_llm (docs/a.md, docs/b.md); each runs where it is named"
    assert describe_left_out([one, two]) == line
    many = describe_left_out([LeftOut(f"m{number}", REFUSAL) for number in range(MAX_NAMED + 3)])
    assert many.startswith("left out: m0, ")
    assert f"m{MAX_NAMED - 1} and 3 more, known" in many


def test_the_shipped_registry_knows_what_todays_fast_llm_refuses() -> None:
    known = {name: found.words for name, one in load_models().items() if (found := one.find_refusal("fast_llm"))}
    assert {"smollm2", "mixtral", "sliced-smollm2", "sliced-mixtral"} <= set(known)
    refused = {name for name, model in load_models().items() if "refused" in model.groups}
    assert refused <= set(known), "a model of the group has its refusal"
    assert not [name for name, model in load_models().items() if model.find_refusal("reference")]
