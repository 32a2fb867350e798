from ci.equivalence.verdict import Verdict
from ci.evidence import Evidence, Measure
from ci.suite.verdict_evidence import add_verdicts, format_failures


def make_measure(tensor: str, error: float, *, passed: bool = True) -> Measure:
    return Measure(tensor, "float32", (2, 3), error, 0.1, passed=passed)


def test_the_first_failed_verdict_gives_class_and_component() -> None:
    passed = Verdict(passed=True, worst=make_measure("embeddings", 0.09), figures={"seconds": 1.0})
    first = Verdict(passed=False, failure_class="numeric_mismatch", component="conversion", layer=1, diagnosis="rope")
    second = Verdict(passed=False, failure_class="config_mismatch", component="implementation", diagnosis="rope")
    before = Evidence(model="tiny", step="test_conversion", figures={"bytes": 2.0})
    evidence = add_verdicts(before, (passed, first, second))
    assert (evidence.failure_class, evidence.half, evidence.layer) == ("numeric_mismatch", "conversion", 1)
    assert evidence.diagnosis == "rope", "what two verdicts say alike is said once"
    assert evidence.figures == {"bytes": 2.0, "seconds": 1.0}


def test_the_worst_measure_is_that_of_a_failed_verdict_where_there_is_one() -> None:
    near = Verdict(passed=True, worst=make_measure("near", 0.09))
    far = Verdict(passed=True, worst=make_measure("far", 0.01))
    failed = Verdict(passed=False, worst=make_measure("failed", 0.2, passed=False))
    before = Evidence(model="tiny", step="test_conversion")
    green, red = add_verdicts(before, (far, near)), add_verdicts(before, (near, failed, far))
    assert green.worst is not None
    assert red.worst is not None
    assert (green.worst.tensor, red.worst.tensor) == ("near", "failed")


def test_only_failed_verdicts_are_printed_with_their_worst_tensor() -> None:
    worst = Measure("logits", "float32", (2, 3), 0.5, 0.1, floor=0.01, worst_index=(1, 2), expected=1.0, actual=2.0)
    failed = Verdict(passed=False, failure_class="numeric_mismatch", diagnosis="wrong by a half", worst=worst)
    figure = "500 % of the limit: error 5.00e-01, limit 1.00e-01"
    assert format_failures((Verdict(passed=True), failed)).splitlines() == [
        "wrong by a half",
        f"logits (float32): {figure}, floor 1.00e-02; at [1, 2] expected 1.0, got 2.0",
    ]
    assert format_failures((Verdict(passed=True),)) == ""


def test_the_printed_error_and_limit_are_those_of_the_figure() -> None:
    """The figure is the one of the report; here that of the worst token."""
    wrong = Measure("decoder.0.mlp", "float32", (1, 4), 1.6e-2, 4e-6, token_error=1.0, token_limit=1e-5, passed=False)
    text = format_failures((Verdict(passed=False, diagnosis="layer 0 is wrong", worst=wrong),))
    figure = "100,000 x the limit: error of its worst token 1.00e+00, limit 1.00e-05"
    assert text.splitlines()[1].startswith(f"decoder.0.mlp (float32): {figure}")
