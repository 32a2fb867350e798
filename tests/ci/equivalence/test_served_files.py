"""What an engine does otherwise with the files of an export."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.consumers.base import ContinueResult, ScoreResult
from ci.equivalence.served_files import compare_served_files

SCORED = ScoreResult(10, "bfloat16", 0.1)
CONTINUED = ContinueResult(
    0.1, {"2": True}, {"temperature": "0.6"}, chat_ids=(1, 5), default_dtype="bfloat16", text_ids=(3, 4), context=512
)


def test_the_same_answers_have_no_finding() -> None:
    assert compare_served_files((SCORED, CONTINUED), (SCORED, CONTINUED)) == ()
    assert compare_served_files((SCORED, CONTINUED), (replace(SCORED, seconds=9.0), CONTINUED)) == ()


@pytest.mark.parametrize(
    ("scored", "continued", "said"),
    [
        ({"tokenizer": "no tokenizer file"}, {}, "the served tokenizer not exported: no tokenizer file"),
        ({}, {"stops": {"2": False}}, "generation goes on after token 2, unlike the original's"),
        ({}, {"sampling": {"temperature": "1.0"}}, "temperature 0.6 became 1.0"),
        ({}, {"chat_ids": ()}, "the served chat template not exported"),
        ({}, {"chat_ids": (1, 6)}, "the served chat template changed"),
        ({}, {"text_ids": (0, 3, 4)}, "a text is 3 tokens, of the original 2, different from token 0 on"),
        ({}, {"text_ids": (3, 4, 9)}, "different from token 2 on"),
        ({}, {"context": 300}, "served context changed: at most 300 tokens, the original 512"),
        ({}, {"default_dtype": "float32"}, "served dtype changed: float32 by itself, the original in bfloat16"),
    ],
)
def test_each_difference_is_a_finding(scored: dict[str, Any], continued: dict[str, Any], said: str) -> None:
    export = (replace(SCORED, **scored), replace(CONTINUED, **continued))
    (finding,) = compare_served_files((SCORED, CONTINUED), export)
    assert said in str(finding)


def test_what_the_original_lacks_is_not_lost() -> None:
    lacking, with_template = (replace(CONTINUED, chat_ids=ids, text_ids=(), context=0) for ids in ((), (3,)))
    bare = replace(SCORED, tokenizer="none")
    assert compare_served_files((bare, lacking), (bare, with_template)) == ()


def test_a_lost_tokenizer_is_one_finding() -> None:
    """Neither template nor text can be read then."""
    lost = (replace(SCORED, tokenizer="none"), replace(CONTINUED, text_ids=()))
    (finding,) = compare_served_files((SCORED, CONTINUED), lost)
    assert "the served tokenizer not exported" in str(finding)
