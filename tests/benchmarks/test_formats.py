"""The table of formats: each format has a model, each model a valid entry, each refusal an owner."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.format_models import MODELS
from benchmarks.format_probes import PROBES
from benchmarks.format_weights import make_hybrid_shapes
from benchmarks.formats import _describe_verdict, _make_row, name_subject, show_table
from ci.evidence import Evidence, Measure, Step
from ci.models import load_models
from ci.report.results import CaseResult, EntryResult
from ci.subjects.fast_llm.offer import OFFER

if TYPE_CHECKING:
    from pathlib import Path

COMPARED: Step = "test_forward_equivalence"
MEASURE = Measure(tensor="logits", shape=(2,), error=1e-7, limit=1e-6, dtype="float32", floor=1e-7)


def make_case(step: Any, outcome: Any, **rest: Any) -> CaseResult:
    return CaseResult(f"{step}[m]", step, outcome, **rest)


def test_every_format_has_a_model_and_every_model_a_valid_entry(tmp_path: Path) -> None:
    assert {model.checkpoint_format for model in MODELS} == set(OFFER.formats)
    models = (*MODELS, *PROBES)
    assert len({model.name for model in models}) == len(models)
    registry = tmp_path / "models.toml"
    registry.write_text("\n".join(model.make_entry("0" * 40) for model in models))
    entries = load_models(registry)
    assert [entries[model.name].model_id for model in models] == [model.model_id for model in models]
    assert [name for name, entry in entries.items() if entry.code_revision] == ["dream-carried"]


def test_blocks_of_mamba_replace_attention() -> None:
    hybrid = next(model for model in MODELS if model.name == "apriel_hybrid_ssm")
    names = set(make_hybrid_shapes(hybrid.config))
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.1.mixer.A_log" in names
    assert not [name for name in names if name.startswith("model.layers.1.self_attn")]


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        (make_case(COMPARED, "passed"), "right"),
        (
            make_case(COMPARED, "failed", evidence=Evidence("m", COMPARED, measures=(replace(MEASURE, passed=False),))),
            "wrong",
        ),
        (
            make_case(COMPARED, "failed", evidence=Evidence("m", COMPARED, measures=(replace(MEASURE, passed=True),))),
            "right, and fails for an input",
        ),
        (
            make_case(COMPARED, "failed", headline="Hugging Face, x does not load"),
            "refused: the model's code",
        ),
        (make_case("test_conversion", "failed", headline="unknown key"), "refused: Fast-LLM"),
        (make_case(COMPARED, "failed", infrastructure=True, failure_class="remote_code"), "refused: hub-tests"),
        (make_case(COMPARED, "failed", infrastructure=True, failure_class="environment"), "refused: this machine"),
    ],
)
def test_a_refusal_says_whose_limit_it_is(case: CaseResult, verdict: str) -> None:
    assert _describe_verdict([case], [case] if case.outcome != "passed" else []) == verdict


def test_a_row_names_each_red_test(tmp_path: Path) -> None:
    wrong = make_case(COMPARED, "failed", headline="a|b\nc")
    cases = (
        make_case("test_conversion", "passed"),
        wrong,
        make_case("test_implementation", "failed", headline="a|b c"),
    )
    row = _make_row(MODELS[0], EntryResult("m", "failed", cases))
    assert row.red == (r"`test_forward_equivalence`, `test_implementation`: a\|b c",)
    assert show_table([row]).splitlines()[-1].startswith("| llama | llama | refused: Fast-LLM | 1 |")


def test_the_reference_is_judged_by_the_code_in_the_checkout(tmp_path: Path) -> None:
    words = name_subject("reference", tmp_path)
    assert words[:2] == ["--subject", "reference"]
    assert words[-2:] == ["--subject-path", str(tmp_path)]
    assert "--subject-source" in name_subject("fast_llm", tmp_path)
