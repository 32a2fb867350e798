from __future__ import annotations

from dataclasses import replace

import pytest

from ci.evidence import Evidence
from ci.report.failure_causes import classify_failure, extract_headline, fingerprint_failure
from ci.report.junit import JunitCase
from tests.ci.report import samples
from tests.ci.report.samples import Fault, make_results, mismatch, nights, plan_of
from tests.ci.report.single_model import CONVERSION, FORWARD


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB", "out_of_memory"),
        ("MemoryError", "out_of_memory"),
        ("subprocess.TimeoutExpired: Command timed out after 1800 seconds", "timeout"),
        ("Fatal Python error: Segmentation fault", "crash"),
        ("OSError: [Errno 28] No space left on device", "environment"),
        ("RuntimeError: No CUDA-capable device is detected", "environment"),
        ("RuntimeError: size mismatch for weight: copying a param with shape (2, 3)", "shape_mismatch"),
        ("KeyError: 'model.layers.0.mlp.gate_proj.weight'", "missing_tensor"),
        ("NotImplementedError: yarn", "unsupported"),
        ("AssertionError: logits contain NaN", "non_finite"),
        ("failed on setup with \"worker 'gw0' crashed while running 'a::b'\"", "crash"),
        ("collection failure", "collection"),
        ("ModuleNotFoundError: No module named 'fast_llm.models'", "other"),
        ("AssertionError: 1 != 2", "other"),
        ("", "other"),
    ],
)
def test_a_message_is_classified_by_its_text(message: str, expected: str) -> None:
    assert classify_failure(JunitCase("a", "failed", message=message), None) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Failed: the Hub answered 503 for org/model", "hub_unavailable"),
        ("huggingface_hub.errors.HfHubHTTPError: 429 Client Error", "hub_unavailable"),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error", "gated"),
        ("cannot resolve Hugging Face key model.layers.0.mlp", "other"),
        ("Hugging Face connection of layer 503 differs", "other"),
        ("the HF config has no connection named up_proj", "other"),
    ],
)
def test_only_a_download_can_find_the_hub_away(message: str, expected: str) -> None:
    """A subject's message is never an excuse for the subject, whatever words it has."""
    download = JunitCase("test_download_and_truncate[smollm2]", "failed", message=message)
    assert classify_failure(download, None) == expected
    for name in ("test_conversion[smollm2]", "test_forward_equivalence[smollm2]", "a"):
        assert classify_failure(JunitCase(name, "failed", message=message), None) == "other"


def test_the_class_that_a_test_recorded_wins_except_over_a_crash() -> None:
    case = JunitCase("a", "failed", message="CUDA out of memory")
    assert classify_failure(case, Evidence("m", "test_conversion", failure_class="shape_mismatch")) == "shape_mismatch"
    crash = JunitCase("a", "error", message="worker 'gw0' crashed while running 'a'")
    assert classify_failure(crash, Evidence("m", "test_conversion", failure_class="hub_unavailable")) == "crash"


@pytest.mark.parametrize(
    ("message", "detail", "expected"),
    [
        ("AssertionError: layer 1 is wrong\nmore", "", "layer 1 is wrong"),
        ("Failed: what it said", "", "what it said"),
        ('failed on teardown with "ValueError: x"', "", "ValueError: x (on teardown)"),
        ("collection failure", "trace\nE   ImportError: no", "ImportError: no"),
        ("", "first\nE   KeyError: 1\n\nfile.py:3: KeyError", "KeyError: 1"),
        ("", "just\ntext", "text"),
        ("", "", ""),
    ],
)
def test_the_headline_is_the_message_without_what_pytest_adds(message: str, detail: str, expected: str) -> None:
    assert extract_headline(JunitCase("a", "failed", message=message, detail=detail)) == expected


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("error 1.6e-02 at (0, 37, 112)", "error 3.2e-05 at (1, 2, 3)"),
        ("KeyError in /a/b/convert.py:123", "KeyError in /home/x/convert.py:99"),
        ("<object at 0x7f95b764a340>", "<object at 0x7fffffffffff>"),
        ("mixtral: lm_head is missing", "smollm2: lm_head is missing"),
        ("decoder.0.mixer is wrong", "decoder.17.mixer is wrong"),
        ("Shape (2, 3)", "shape (2, 3, 4)"),
    ],
)
def test_the_same_cause_has_the_same_fingerprint(one: str, two: str) -> None:
    names = ("mixtral", "smollm2")
    assert fingerprint_failure("other", one, names=names) == fingerprint_failure("other", two, names=names)


def test_other_causes_have_other_fingerprints() -> None:
    assert fingerprint_failure("other", "query is wrong") != fingerprint_failure("other", "key is wrong")
    assert fingerprint_failure("other", "x") != fingerprint_failure("crash", "x")


def test_the_same_cause_in_three_models_is_one_cause() -> None:
    results = samples.failing()
    assert len(results.causes) == 1
    assert results.causes[0].models == ("smollm2", "mistral", "mixtral")


def test_model_names_in_a_message_do_not_split_a_cause() -> None:
    faults: dict[str, Fault | None] = {
        f"test_conversion[{name}]": Fault("failure", f"{model.model_id}: no converter for {name}", "x", {"raw": ""})
        for name, model in samples.MODELS.items()
    }
    (cause,) = make_results(plan_of(), faults).causes
    assert cause.models == ("smollm2", "mistral", "mixtral")


def test_another_operation_is_another_cause() -> None:
    plan = plan_of()
    mlp = replace(mismatch(), evidence={**samples.wrong_forward(operation="mlp"), "diagnosis": "layer 0, mlp: wrong"})
    results = make_results(plan, {FORWARD: mismatch(), "test_forward_equivalence[mistral]": mlp})
    assert len(results.causes) == 2


def test_causes_of_this_change_come_first() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    results = make_results(plan, {FORWARD: mismatch(), CONVERSION: oom}, baseline=nights(plan, {CONVERSION: oom}))
    assert [cause.change for cause in results.causes] == ["new", "known"]
