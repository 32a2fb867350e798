"""The hub suite: real Hub models are truncated, converted, and held against Hugging Face's forward pass.

    pytest tests/integration --run-extra-slow [-k mixtral]

Each test records one JUnit property, its `ci.evidence.Evidence`: the machine-readable result.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import NotOfferedError
from ci.suite import Chain, with_verdicts
from ci.suite_checks import checkpoint_problems, published_dtype, verdict_text

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.extra_slow, pytest.mark.filterwarnings("default")]
"""A library's warning is no verdict about the subject."""


def test_download_and_truncate(chain: Chain, record: Any) -> None:
    """The kept layers are on disk, config.json says so, and nothing else was touched."""
    with record() as note:
        checkpoint = chain.checkpoint()
        figures = {
            "bytes_kept": checkpoint.bytes_kept,
            "bytes_fetched": checkpoint.bytes_fetched,
            "requests": checkpoint.requests,
            "fetch_seconds": checkpoint.seconds,
        }
        missed = (f"two layers would have missed {kind}" for kind in checkpoint.kinds_missed)
        notes = (*checkpoint.notes, *missed)
        evidence = replace(chain.evidence("test_download_and_truncate"), published_dtype=published_dtype(checkpoint))
        note(replace(evidence, figures=figures, notes=notes))
        problems = checkpoint_problems(checkpoint)
        assert not problems, "; ".join(problems)


def test_conversion(chain: Chain, record: Any, truncated_hf_path: Path) -> None:
    """The subject converts the checkpoint, and its files are there."""
    with record() as note:
        path, result = chain.converted()
        figures = {"bytes_written": result.bytes_written, "convert_seconds": result.seconds}
        note(replace(chain.evidence("test_conversion"), figures=figures))
        missing = [name for name in result.files if not (path / name).is_file()]
        assert result.files, f"{chain.options.subject} reported no checkpoint files in {path}"
        assert not missing, f"{chain.options.subject} reported files that are not there: {', '.join(missing)}"
        assert json.loads((truncated_hf_path / "hub-tests.json").read_bytes()), "the source checkpoint was damaged"


def test_forward_equivalence(chain: Chain, record: Any, fast_llm_path: Path) -> None:
    """Every captured tensor equals Hugging Face's: in float32 within its noise, in the model's dtype likewise."""
    with record() as note:
        judge = chain.judge()
        verdicts = (judge.check_forward(dtype="float32", variant={}), judge.check_forward(dtype="model", variant={}))
        note(with_verdicts(chain.evidence("test_forward_equivalence"), verdicts))
        assert all(verdict.passed for verdict in verdicts), verdict_text(verdicts)


def test_moe_implementation(
    chain: Chain, record: Any, fast_llm_path: Path, moe_implementation: tuple[str, str]
) -> None:
    """Each implementation of the mixture of experts equals Hugging Face's, and really ran."""
    _judge_variant(chain, record, *moe_implementation)


def test_implementation(chain: Chain, record: Any, fast_llm_path: Path, implementation: tuple[str, str]) -> None:
    """Each implementation on every other axis equals Hugging Face's, and really ran."""
    _judge_variant(chain, record, *implementation)


def _judge_variant(chain: Chain, record: Any, axis: str, name: str) -> None:
    with record(f"{axis}={name}") as note:
        offered = {(v.axis, v.name): v for v in chain.subject().variants(str(chain.converted()[0]))}
        variant = offered.get((axis, name))
        evidence = chain.evidence(
            "test_moe_implementation" if axis == "moe" else "test_implementation", f"{axis}={name}"
        )
        if variant is None or variant.needs:
            reason = (
                f"needs {variant.needs}" if variant else f"{chain.options.subject} does not offer it for this model"
            )
            did_not_run = replace(evidence, unmet_need=(variant.needs if variant else None) or "")
            said = f"{axis}={name} did not run: {reason}"
            note(replace(did_not_run, failure_class="variant_did_not_run", diagnosis=said))
            pytest.skip(f"variant did not run: {axis}={name} {reason}")
        check = chain.judge().check_forward
        verdicts = tuple(check(dtype=dtype, variant={axis: name}) for dtype in ("float32", "model"))
        note(with_verdicts(evidence, verdicts))
        assert all(verdict.passed for verdict in verdicts), verdict_text(verdicts)


def test_hub_model_conversion(chain: Chain, record: Any, fast_llm_path: Path) -> None:
    """There and back: Hugging Face to the subject to Hugging Face, bit for bit, and the export still runs."""
    with record() as note:
        exported = chain.exported()
        verdict = chain.judge().check_round_trip(str(exported))
        note(with_verdicts(chain.evidence("test_hub_model_conversion"), (verdict,)))
        assert verdict.passed, verdict_text((verdict,))


@pytest.mark.deep
def test_config_sensitivity(chain: Chain, record: Any, fast_llm_path: Path) -> None:
    """Each config key that moves Hugging Face's output moves the subject's alike, or is refused."""
    with record() as note:
        verdict = chain.judge().check_config_sensitivity()
        note(with_verdicts(chain.evidence("test_config_sensitivity"), (verdict,)))
        assert verdict.passed, verdict_text((verdict,))


@pytest.mark.deep
def test_weight_liveness(chain: Chain, record: Any, fast_llm_path: Path) -> None:
    """Each tensor on disk, when perturbed, moves the subject's output as it moves Hugging Face's."""
    with record() as note:
        verdict = chain.judge().check_weight_liveness()
        note(with_verdicts(chain.evidence("test_weight_liveness"), (verdict,)))
        assert verdict.passed, verdict_text((verdict,))


@pytest.mark.deep
def test_gradients(chain: Chain, record: Any, fast_llm_path: Path) -> None:
    """Each parameter's gradient equals Hugging Face's, by its name there; a subject that cannot train is no pass."""
    with record() as note:
        evidence = chain.evidence("test_gradients")
        try:
            verdict = chain.judge().check_gradients()
        except NotOfferedError as said:
            note(replace(evidence, failure_class="variant_did_not_run", diagnosis=f"did not run: {said}"))
            pytest.skip(f"did not run: {said}")
        note(with_verdicts(evidence, (verdict,)))
        assert verdict.passed, verdict_text((verdict,))
