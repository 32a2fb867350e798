"""From judged cases to a verdict: red where one is, none where nothing can be said, never green by omission."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from ci.equivalence import verdicts
from ci.equivalence.compare import Problem
from ci.equivalence.floors import GATE_A
from ci.equivalence.roundtrip import ConfigFinding, TensorFinding
from ci.equivalence.sensitivity import Change, Found, KeyFinding
from ci.evidence import Measure
from tests.ci.equivalence.judging import TOKENS, judged

if TYPE_CHECKING:
    from ci.equivalence.judged import Judged

BROKEN = Problem("non_finite", "logits", "logits is nan")


def test_one_red_case_makes_the_verdict_red() -> None:
    right, wrong = judged(1.0, 1.0), judged(1.0, 2 * GATE_A, 3 * GATE_A)
    assert verdicts.verdict([right, right], coverage={}).passed
    for order in ([right, wrong], [wrong, right]):
        found = verdicts.verdict(order, coverage={})
        assert (found.passed, found.failure_class) == (False, "numeric_mismatch")
        assert found.diagnosis.startswith("decoder.0 is the first tensor to leave the reference's noise: 2 times")
        assert found.worst is not None
        assert found.worst.tensor == "decoder.1"


def test_a_problem_is_red_before_any_number() -> None:
    found = verdicts.verdict([judged(1.0, walked={"problems": (BROKEN,)})], coverage={})
    assert (found.passed, found.failure_class, found.diagnosis) == (False, "non_finite", "logits is nan")


@pytest.mark.parametrize(
    "blind", [judged(1.0, untrusted="Hugging Face differs"), judged(1.0, fed=True, excused=TOKENS)]
)
def test_one_case_without_a_yardstick_is_no_pass(blind: Judged) -> None:
    found = verdicts.verdict([judged(1.0), blind], coverage={"a": "b"})
    assert (found.passed, found.failure_class) == (False, "environment")
    assert found.diagnosis == blind.no_yardstick
    assert found.coverage == {"a": "b"}


def test_what_either_side_did_not_capture_is_said() -> None:
    assert verdicts.captured([judged(1.0)]) == {}
    hidden = ("decoder.0.mixer.query", "decoder.1.mixer.query", "decoder.1.mlp")
    said = verdicts.captured([judged(1.0, walked={"not_captured": hidden}), judged(1.0)])
    assert said == {"captures": "not covered: 3 tensors are not captured (query, MLP)"}


def test_whatever_else_ran_than_was_asked_for_is_told() -> None:
    asked = {"moe": "dropless", "dtype": "bfloat16", "device": "cpu"}
    assert verdicts.did_not_run(asked, {**asked, "attention": "eager"}) == {}
    assert verdicts.did_not_run(asked, {"moe": "looped", "dtype": "float32", "device": "cpu"}) == {
        "moe": "looped",
        "dtype": "float32",
    }
    assert verdicts.did_not_run({"moe": "dropless"}, {}) == {"moe": "nothing reported"}


def test_there_and_back_says_what_changed_before_how_the_export_runs() -> None:
    green, red = verdicts.verdict([judged(1.0)], coverage={}), verdicts.verdict([judged(99.0)], coverage={})
    lost = TensorFinding("missing_tensor", "lm_head.weight", "lm_head.weight was not exported")
    semantic, metadata = ConfigFinding("rope", "semantic", 1, 2), ConfigFinding("dtype", "metadata", 1, 2)
    whole = verdicts.round_trip([], [metadata], green)
    assert whole.passed
    assert whole.notes == ("config dtype (metadata): 1 became 2",)
    for tensors, config, stock, kind in (
        ([lost], [], green, "missing_tensor"),
        ([], [semantic], green, "config_mismatch"),
        ([], [], red, "numeric_mismatch"),
        ([lost], [semantic], red, "missing_tensor"),
    ):
        found = verdicts.round_trip(tensors, config, stock)
        assert (found.passed, found.failure_class, found.half) == (False, kind, "conversion")
        assert found.diagnosis
    assert "(and 1 more)" in verdicts.round_trip([lost], [semantic], green).diagnosis


def finding(name: str, found: Found) -> KeyFinding:
    return KeyFinding(Change(name, {}), found, error=0.5)


def test_a_config_key_that_is_ignored_or_turned_is_red_and_a_refusal_is_told() -> None:
    right = verdicts.sensitivity([finding("a", "alike"), finding("b", "refused"), finding("c", "inert")])
    assert (right.passed, right.failure_class, right.half, right.diagnosis) == (True, None, "", "")
    assert right.coverage == {"config key a": "alike", "config key b": "refused", "config key c": "inert"}
    assert right.notes == ("b: refused",)
    for kind, word in (("silently ignored", "is silently ignored"), ("differs", "is converted to something else")):
        wrong = verdicts.sensitivity([finding("a", "alike"), finding("b", kind)])  # type: ignore[arg-type]
        assert (wrong.passed, wrong.failure_class, wrong.half) == (False, "config_mismatch", "conversion")
        assert wrong.diagnosis.startswith(f"b {word}")


@pytest.mark.parametrize("found", [[], [finding("a", "inert"), finding("b", "not legal")]])
def test_keys_that_move_nothing_show_nothing(found: list[KeyFinding]) -> None:
    verdict = verdicts.sensitivity(found)
    assert (verdict.passed, verdict.failure_class) == (False, "environment")


@pytest.mark.parametrize("said", ["alike", "refused"])
def test_one_key_that_moves_is_enough(said: Found) -> None:
    assert verdicts.sensitivity([finding("a", said)]).passed


def gradient(name: str, error: float) -> Measure:
    return Measure(
        f"gradient of {name}", "float32", (1,), error, 1e-5, floor=1e-6, ratio=error / 1e-6, passed=error <= 1e-5
    )


def test_the_last_wrong_gradient_in_the_order_of_the_forward_is_named() -> None:
    right = verdicts.gradients([gradient("a", 1e-7), gradient("b", 9e-6)])
    assert right.passed
    assert right.worst is not None
    assert right.worst.tensor == "gradient of b"
    assert (right.failure_class, right.half, right.diagnosis) == (None, "", "")
    assert right.figures == {"gradients.used": pytest.approx(0.9), "gradients.ratio": pytest.approx(9.0)}
    wrong = verdicts.gradients([gradient("a", 1e-4), gradient("b", math.inf), gradient("c", 0.0)])
    assert (wrong.passed, wrong.half, wrong.failure_class) == (False, "kernel", "numeric_mismatch")
    assert wrong.diagnosis == "backward pass: gradient of b [kernel] is inf noise floors off, as are 1 more"


def test_no_gradient_at_all_is_no_pass() -> None:
    with pytest.raises(ValueError, match="empty"):
        verdicts.gradients([])
