from __future__ import annotations

import pytest

from ci.evidence import Evidence
from ci.report.causes import fingerprint
from ci.report.classify import classify, headline
from ci.report.junit import Case


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB", "out_of_memory"),
        ("MemoryError", "out_of_memory"),
        ("Failed: the Hub answered 503 for org/model", "hub_unavailable"),
        ("huggingface_hub.errors.HfHubHTTPError: 429 Client Error", "hub_unavailable"),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error", "gated"),
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
def test_by_what_it_says(message: str, expected: str) -> None:
    assert classify(Case("a", "failed", message=message), None) == expected


def test_the_test_itself_knows_best() -> None:
    case = Case("a", "failed", message="CUDA out of memory")
    assert classify(case, Evidence("m", "test_conversion", failure_class="shape_mismatch")) == "shape_mismatch"
    crash = Case("a", "error", message="worker 'gw0' crashed while running 'a'")
    assert classify(crash, Evidence("m", "test_conversion", failure_class="hub_unavailable")) == "crash"


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
def test_headline(message: str, detail: str, expected: str) -> None:
    assert headline(Case("a", "failed", message=message, detail=detail)) == expected


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
    assert fingerprint("other", one, names=names) == fingerprint("other", two, names=names)


def test_other_causes_have_other_fingerprints() -> None:
    assert fingerprint("other", "query is wrong") != fingerprint("other", "key is wrong")
    assert fingerprint("other", "x") != fingerprint("crash", "x")
