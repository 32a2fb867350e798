"""One sentence: location, component, suspect, size, reason, and what else is wrong."""

from __future__ import annotations

from ci.equivalence.diagnosis import Diagnosis, describe_growth, first_failure_per_block
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
