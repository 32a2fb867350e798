"""The table of pairs holds what it says: names, models, and no lines of Fast-LLM."""

from __future__ import annotations

import re

from benchmarks.replay.pairs import PAIRS
from benchmarks.replay.records import NotRun, Place

REPLAYED = [pair for pair in PAIRS if not isinstance(pair.recreation, NotRun)]


def test_names_are_unique_and_commits_are_ids() -> None:
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    assert all(re.fullmatch("[0-9a-f]{8}", pair.commit) for pair in PAIRS)


def test_at_least_twenty_pairs_are_replayed_on_a_model() -> None:
    assert len(REPLAYED) >= 20
    assert all(pair.model and pair.checks for pair in REPLAYED)


def test_each_pair_says_where_it_should_be_found() -> None:
    assert [pair.name for pair in REPLAYED if pair.place == Place()] == []


def test_each_model_name_stands_for_one_model() -> None:
    models = {(pair.model.name, repr(pair.model)) for pair in PAIRS if pair.model}
    assert len({name for name, _ in models}) == len(models)


def test_an_edit_is_a_few_words_and_not_code_of_the_project() -> None:
    for pair in REPLAYED:
        if isinstance(pair.recreation, tuple):
            assert all(edit.replacement.count("\n") == 0 for edit in pair.recreation), pair.name
            assert all(len(edit.replacement) <= 80 for edit in pair.recreation), pair.name
