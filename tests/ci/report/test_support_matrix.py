from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ci.errors import RequestError
from ci.hub.slices import Slice
from ci.models import HubModel
from ci.records import read_json, to_json
from ci.report.history import Baseline, HistoryCase, HistoryRecord, history_line, read_history
from ci.report.support_matrix import NO_ENTRY, MatrixCell, SupportMatrix, build_support_matrix
from ci.subjects.fast_llm.offer import OFFER

NOW = "2026-11-27T06:00:00Z"
TINY = HubModel("tiny", "o/tiny", "llama")
FORWARD, EXPORT = "test_forward_equivalence[tiny]", "test_hub_model_conversion[tiny]"
DOWNLOAD = "test_download_and_truncate[tiny]"
PASSED = HistoryCase(FORWARD, "passed", used=0.4, margins={"float32": 0.1, "bfloat16": 0.4})
NIGHT = HistoryRecord(
    "2026-11-27T01:00:00+00:00",
    "tiny",
    "passed",
    "a" * 40,
    (HistoryCase(DOWNLOAD, "passed"), PASSED, HistoryCase(EXPORT, "passed", used=0.0)),
    model_id="o/tiny",
    revision="f" * 40,
    layers=2,
    subject="fast_llm",
    device="cuda",
    libraries={"torch": "2.13.0", "transformers": "5.24.0"},
    oracle="Hugging Face in float64, transformers 5.24.0",
)


def build(*nights: HistoryRecord, models: tuple[HubModel, ...] = (TINY,)) -> SupportMatrix:
    texts = "".join(map(history_line, nights))
    return build_support_matrix(models, read_history([texts]), "fast_llm", NOW)


def cells_of(matrix: SupportMatrix, check: str, variant: str = "") -> list[MatrixCell]:
    return [c for c in matrix.cells if (c.entry, c.check, c.variant) == ("tiny", check, variant)]


def test_each_dtype_has_its_own_margin_date_commit_and_versions() -> None:
    single, half = cells_of(build(NIGHT), "forward")
    assert [(c.dtype, c.state, c.margin) for c in (single, half)] == [
        ("float32", "passed", 0.1),
        ("bfloat16", "passed", 0.4),
    ]
    assert (half.date, half.sha, half.device, half.layers) == (NIGHT.date, "a" * 40, "cuda", 2)
    assert half.libraries["transformers"] == "5.24.0"
    assert half.oracle.startswith("Hugging Face in float64")
    assert (half.reason, half.stale) == ("", "")


def test_a_night_of_another_part_of_the_model_fills_no_cell() -> None:
    sliced = replace(NIGHT, subset="vocab=9")
    assert [cell.state for cell in cells_of(build(sliced), "forward")] == ["empty"]
    assert [cell.state for cell in cells_of(build(NIGHT, sliced), "forward")] == ["passed", "passed"]
    part = replace(TINY, slice=Slice(9))
    assert [cell.state for cell in cells_of(build(NIGHT, sliced, models=(part,)), "forward")] == ["passed", "passed"]
    assert [cell.state for cell in cells_of(build(NIGHT, models=(part,)), "forward")] == ["empty"]


def test_an_export_is_one_cell_and_a_failure_is_red_in_its_dtype_alone() -> None:
    failed = replace(
        PASSED, outcome="failed", failure_class="numeric_mismatch", margins={"float32": 0.1, "bfloat16": 3}
    )
    matrix = build(replace(NIGHT, cases=(failed, HistoryCase(EXPORT, "passed", used=0.0))))
    assert [(c.state, c.reason) for c in cells_of(matrix, "forward")] == [
        ("passed", ""),
        ("failed", "numeric mismatch"),
    ]
    (export,) = cells_of(matrix, "export")
    assert (export.dtype, export.state, export.margin) == ("", "passed", 0.0)


def test_a_failure_without_a_measure_over_its_limit_is_red_in_every_dtype() -> None:
    crashed = HistoryCase(FORWARD, "failed", "crash")
    (cell,) = cells_of(build(replace(NIGHT, cases=(crashed,))), "forward")
    assert (cell.state, cell.margin, cell.reason) == ("failed", None, "crash")
    endless = replace(PASSED, outcome="failed", failure_class="non_finite", margins={"float32": None, "bfloat16": 0.4})
    matrix = build(replace(NIGHT, cases=(endless,)))
    assert [c.state for c in cells_of(matrix, "forward")] == ["failed", "passed"]


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        ((HistoryCase(DOWNLOAD, "inconclusive", "quantized"),), "hub-tests does not dequantise these weights yet"),
        ((HistoryCase(DOWNLOAD, "inconclusive", "gated"),), "gated model"),
        (
            (
                HistoryCase(DOWNLOAD, "passed"),
                HistoryCase("test_conversion[tiny]", "failed", "unsupported"),
                HistoryCase(FORWARD, "consequence", "dependency"),
            ),
            "an earlier test failed: unsupported",
        ),
        (
            (
                HistoryCase(DOWNLOAD, "passed"),
                HistoryCase("test_conversion[tiny]", "failed", "other", headline="unknown key 'a'"),
                HistoryCase(FORWARD, "consequence", "dependency"),
            ),
            "an earlier test failed",
        ),
        ((HistoryCase(DOWNLOAD, "passed"), HistoryCase(FORWARD, "inconclusive", "environment")), "machine or service"),
        ((HistoryCase(DOWNLOAD, "passed"),), "not tested since it is planned"),
    ],
)
def test_an_empty_cell_says_why(cases: tuple[HistoryCase, ...], reason: str) -> None:
    (cell,) = cells_of(build(replace(NIGHT, verdict="neutral", cases=cases)), "forward")
    assert (cell.state, cell.date) == ("empty", "")
    assert cell.reason.startswith(reason)
    assert cell.headline == next((case.headline for case in cases if case.headline), "")


def test_a_variant_that_the_machine_cannot_run_says_what_it_needs() -> None:
    name = "test_implementation[attention-flash-tiny]"
    night = replace(NIGHT, cases=(HistoryCase(name, "did_not_run", "variant_did_not_run"),))
    (cell,) = cells_of(build(night), "variant", "attention=flash")
    assert (cell.state, cell.reason) == ("empty", "needs cuda")


def test_a_model_without_a_night_and_a_format_without_a_model_are_cells_too() -> None:
    matrix = build()
    assert {c.reason for c in matrix.cells if c.entry == "tiny"} == {"never tested"}
    missing = {c.checkpoint_format: c.reason for c in matrix.cells if not c.entry}
    assert missing == {name: NO_ENTRY for name in OFFER.formats if name != "llama"}
    assert matrix.formats[: len(OFFER.formats)] == OFFER.formats


def test_old_results_and_those_that_the_newest_night_did_not_renew_are_stale() -> None:
    old = replace(NIGHT, date="2026-11-01T01:00:00+00:00", run_url="https://github.com/o/r/actions/runs/1")
    assert {c.stale for c in cells_of(build(old), "forward")} == {"26 days old"}
    down = replace(
        NIGHT,
        date="2026-11-27T02:00:00+00:00",
        run_url="https://github.com/o/r/actions/runs/2",
        cases=(HistoryCase(FORWARD, "inconclusive", "hub_unavailable"),),
    )
    (cell, _) = cells_of(build(replace(NIGHT, run_url="https://github.com/o/r/actions/runs/3"), down), "forward")
    assert cell.stale == "the night of 2026-11-27 says: Hub unavailable"


def test_a_night_of_another_subject_or_model_is_not_its_own() -> None:
    for other in (replace(NIGHT, subject="reference"), replace(NIGHT, model_id="o/other")):
        assert {c.state for c in cells_of(build(other), "forward")} == {"empty"}


def test_nights_from_before_the_margins_give_one_cell_without_a_dtype() -> None:
    written = json.loads(history_line(NIGHT))
    for case in written["cases"]:
        del case["margins"]
    line = json.dumps(written)
    matrix = build_support_matrix([TINY], read_history([line]), "fast_llm", NOW)
    (cell,) = cells_of(matrix, "forward")
    assert (cell.dtype, cell.margin) == ("", 0.4)


def test_it_can_be_written_and_read_back() -> None:
    matrix = build(NIGHT)
    assert read_json(SupportMatrix, to_json(matrix), what="matrix") == matrix
    assert matrix.count("passed") == 3


def test_a_wrong_date_is_one_line() -> None:
    with pytest.raises(RequestError, match="'soon' is not a date"):
        build_support_matrix([TINY], Baseline(), "fast_llm", "soon")
