"""Counts, targets and tables of the replay."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.mutation.tiny_models import TINY_MODELS
from benchmarks.replay.records import Finding, NotRun, Pair, PairResult, Place
from benchmarks.replay.results import count_results, format_table, meets_targets, read_results, write_results

if TYPE_CHECKING:
    from pathlib import Path

PAIR = Pair("bug", "abc", "a bug", (), TINY_MODELS["dense"], place=Place(("query", "key"), "conversion", "scaled"))
RED = Finding("float32", False, "numeric_mismatch", "query", 0, "conversion", "layer 0, query | scaled by 2")
GREEN = Finding("float32", passed=True)
GOOD = PairResult(PAIR, RED, GREEN, 3.0)


@pytest.mark.parametrize(
    ("change", "located"),
    [
        ({}, True),
        ({"operation": "key"}, True),
        ({"operation": "MLP"}, False),
        ({"component": "kernel"}, False),
        ({"diagnosis": "layer 0, query: other"}, False),
        ({"passed": True}, False),
    ],
)
def test_a_finding_is_located_where_each_named_part_fits(change: dict[str, object], located: bool) -> None:
    assert replace(RED, **change).is_at(PAIR.place) is located  # type: ignore[arg-type]


def test_a_place_without_parts_fits_every_red_finding_only() -> None:
    assert RED.is_at(Place())
    assert not GREEN.is_at(Place())


@pytest.mark.parametrize(
    ("bad", "good", "met"),
    [
        (replace(GOOD, before=GREEN), 9, True),
        (replace(GOOD, before=GREEN), 8, False),
        (replace(GOOD, after=RED), 99, False),
        (replace(GOOD, before=replace(RED, operation="MLP")), 4, True),
        (replace(GOOD, before=replace(RED, operation="MLP")), 3, False),
    ],
)
def test_the_targets_are_shares_of_the_pairs_that_ran(bad: PairResult, good: int, met: bool) -> None:
    not_run = PairResult(replace(PAIR, recreation=NotRun("no")), reason="no")
    results = [bad, *[GOOD] * good, not_run]
    assert meets_targets(results) is met
    assert count_results(results)["ran"] == good + 1


def test_nothing_that_ran_meets_no_target() -> None:
    assert not meets_targets([])


def test_the_table_names_what_was_red_and_what_could_not_run() -> None:
    results = [GOOD, replace(GOOD, before=GREEN), replace(GOOD, after=RED), PairResult(PAIR, reason="it moved")]
    red, missed, alarm, *_ = format_table(results).splitlines()[2:]
    assert red.split(" | ")[2] == "red: numeric_mismatch (float32)"
    assert "query \\| scaled" in red
    assert "| **green** |" in missed
    assert "| **no** |" in missed
    assert "| **red** |" in alarm
    assert "| it moved |" in format_table(results)


def test_a_line_names_no_directory_of_this_machine() -> None:
    told = "Fast-LLM, trace of /scratch/state-1/converted: KeyError (fast_llm/models/gpt.py:7)"
    row = format_table([replace(GOOD, before=replace(RED, diagnosis=told))])
    assert "trace of converted: KeyError (fast_llm/models/gpt.py:7)" in row


def test_the_files_hold_the_commit_and_each_pair(tmp_path: Path) -> None:
    write_results([GOOD, PairResult(PAIR, reason="it moved")], tmp_path, "f" * 40)
    document = json.loads((tmp_path / "replay.json").read_text())
    assert document["commit"] == "f" * 40
    assert document["ran"] == 1
    assert document["results"][0]["before"]["operation"] == "query"
    assert document["results"][1]["could_not_run"] == "it moved"


def test_results_are_read_again_for_the_same_commit_only(tmp_path: Path) -> None:
    other = replace(PAIR, name="other")
    results = [GOOD, PairResult(other, reason="it moved")]
    assert read_results(tmp_path, "f" * 40, [PAIR, other]) == []
    write_results(results, tmp_path, "f" * 40)
    assert read_results(tmp_path, "f" * 40, [PAIR, other]) == results
    assert read_results(tmp_path, "f" * 40, [other]) == results[1:]
    assert read_results(tmp_path, "e" * 40, [PAIR, other]) == []
