"""One sentence: location, component, suspect, size, reason, and what else is wrong."""

from __future__ import annotations

import pytest

from ci.equivalence.diagnosis import Diagnosis, describe_growth, describe_suspect, first_failure_per_block
from ci.equivalence.error_signature import ErrorSignature
from ci.equivalence.tensor_location import locate_tensor
from ci.evidence import Measure


def measure(tensor: str, error: float) -> Measure:
    return Measure(tensor, "float32", (1,), error, 1.0, ratio=10 * error, passed=error <= 1.0)


def test_the_sentence_names_every_part() -> None:
    others = tuple(map(locate_tensor, ("decoder.2.mixer.query", "decoder.3.mixer.query", "final_norm")))
    location = locate_tensor("decoder.1.mlp")
    sentence = str(Diagnosis(location, "a constant factor", True, "conversion", "experts is 4, expected 8", others))
    assert sentence == (
        "layer 1, MLP [conversion]: a constant factor; first wrong tensor decoder.1.mlp; experts is 4, expected 8; "
        "also wrong on right input: query in layer 2, 3, final norm"
    )


def test_a_problem_that_was_not_measured_names_no_tensor() -> None:
    assert str(Diagnosis(locate_tensor("logits"), "logits is nan", measured=False)) == "output head: logits is nan"


def test_each_block_has_a_first_failure_of_its_own() -> None:
    measures = [
        measure("embeddings", 0.5),
        measure("decoder.0.mlp", 2.0),
        measure("decoder.0", 3.0),
        measure("decoder.1", 0.5),
        measure("final_norm", 2.0),
        measure("logits", 9.0),
    ]
    assert [m.tensor for m in first_failure_per_block(measures)] == ["decoder.0.mlp", "final_norm"]


def test_the_curve_has_blocks_only() -> None:
    measures = [measure("embeddings", 0.1), measure("decoder.0.mlp", 9.0), measure("decoder.0", 0.2)]
    assert describe_growth(measures) == "error over floor by layer: 1 2"


@pytest.mark.parametrize(
    ("tensor", "signature", "words"),
    [
        ("decoder.0.norm_1", ErrorSignature(token_scale=True), "the norm's epsilon"),
        ("decoder.0.mixer.key", ErrorSignature(first_wrong=1), "RoPE"),
        ("decoder.0.mixer.value", ErrorSignature(offset=True), "the projection's bias"),
        ("decoder.0.mixer.context", ErrorSignature(padded_only=True), "the padding mask"),
        ("decoder.0.mixer.context", ErrorSignature(later_documents=True), "the document mask"),
        ("decoder.0.mlp.router_logits", ErrorSignature(channels=(3,)), "only expert 3"),
        ("decoder.0.mlp.router_scores", ErrorSignature(), "softmax before or after the choice"),
        ("embeddings", ErrorSignature(scale=2.0), "the embedding's scale"),
        ("logits", ErrorSignature(channels=(1, 2)), "vocabulary columns 1, 2"),
        ("decoder.0", ErrorSignature(), "no simple relation"),
        ("decoder.0.norm_2", ErrorSignature(same_as="decoder.0.norm_1"), "it equals the reference's decoder.0.norm_1"),
    ],
)
def test_the_signature_names_a_suspect(tensor: str, signature: ErrorSignature, words: str) -> None:
    assert words in describe_suspect(tensor, signature)


def test_what_only_low_precision_shows_is_a_cast_whatever_it_looks_like() -> None:
    said = describe_suspect("decoder.0.norm_1", ErrorSignature(scale=2.0), only_low_precision="bfloat16")
    assert said.startswith("wrong in bfloat16 only")
