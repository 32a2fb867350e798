"""Forged and accidental results, one row each: what is forged → the class of the result. None is green.

Each row begins with a run that is green and changes one thing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.evidence import HUGGING_FACE_NEED, Measure, to_property
from ci.hub.fetch import Checkpoint
from ci.report import evidence_requirements
from ci.report.build_results import build_results
from ci.report.evidence_requirements import STEP_REQUIREMENTS
from ci.report.html_page import render_html
from ci.report.junit import read_junit
from ci.report.markdown import render_markdown
from ci.report.results import Attempt, Job, exit_code
from ci.subjects.base import Variant
from ci.subjects.reference.offer import PLAIN
from ci.subjects.registry import find_offer
from ci.suite import tests as suite_tests
from ci.suite.tests import DEEP_TESTS, DEFAULT_TESTS, SERVED_TEST
from tests.ci.report import samples
from tests.ci.report.samples import (
    REVISION,
    Fault,
    did_not_run,
    document,
    evidence_of,
    junit,
    mismatch,
    plan_of,
    served_evidence,
)
from tests.ci.report.samples import measures as sample_measures

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.plan import Plan
    from ci.report.results import Results

DOWNLOAD, CONVERSION, FORWARD, ROUND_TRIP, KEYS, LIVENESS, ORDER, POSITIONS, GRADIENTS, *TRAINING = (
    f"{step}[smollm2]"
    for step in (
        *("test_download_and_truncate", "test_conversion", "test_forward_equivalence", "test_hub_model_conversion"),
        *DEEP_TESTS,
    )
)
STEPS, RESUME, CONVERTED = TRAINING
BESIDE = {"companions.kept": 20.0}
"""What a round trip compared beside the weights."""
LAYOUT = "test_implementation[layout-tp2-smollm2]"
VARIANT = "test_implementation[attention-sdpa-smollm2]"
FETCHED = Checkpoint("HuggingFaceTB/SmolLM2-135M", REVISION, 2, "x", "hit", 1, 0, 0, 0.0, "0" * 64, 30)


def deep_plan(**request: Any) -> Plan:
    return plan_of("smollm2", deep=True, **request)


def build(faults: Mapping[str, Fault | None], plan: Plan | None = None, **attempt: Any) -> Results:
    plan = plan or deep_plan()
    file = Attempt(1, read_junit(junit(plan, faults)), **attempt)
    return build_results(plan, {"smollm2": (file,)}, fetched={"smollm2": FETCHED})


def test_the_run_that_is_forged_is_green_without_a_forgery() -> None:
    assert (build({}).verdict, build({}).causes) == ("passed", ())
    assert build({}, exit_code=0, records_exit_code=True).verdict == "passed"


# One test's evidence.


def one_measure(index: int = 5, **changes: Any) -> tuple[Measure, ...]:
    """The measures of a green forward pass, one of them changed."""
    known = list(sample_measures())
    known[index] = replace(known[index], **changes)
    return tuple(known)


def without(tensor: str, dtype: str = "float32") -> tuple[Measure, ...]:
    return tuple(m for m in sample_measures() if (m.tensor, m.dtype) != (tensor, dtype))


def only(dtype: str) -> tuple[Measure, ...]:
    return tuple(measure for measure in sample_measures() if measure.dtype == dtype)


NAN, INF = math.nan, math.inf
EVIDENCE: dict[str, tuple[str, dict[str, Any], str]] = {
    # What was measured: the flag says passed in every row.
    "above the limit, called passed": (FORWARD, {"measures": one_measure(error=8e-6)}, "200 % of the limit"),
    "far above the limit": (FORWARD, {"measures": one_measure(error=1.6e-2)}, "4,000 x the limit"),
    "the worst alone is above": (FORWARD, {"worst": one_measure(error=8e-6)[5]}, "200 % of the limit"),
    "the last of many is above": (FORWARD, {"measures": one_measure(-1, error=1.0)}, "36 x the limit"),
    "a token is above its limit": (FORWARD, {"measures": one_measure(token_error=1.0, token_limit=0.1)}, "10 x the"),
    "called failed within the limit": (FORWARD, {"measures": one_measure(passed=False)}, "is recorded as failed"),
    "error NaN": (FORWARD, {"measures": one_measure(error=NAN)}, "no usable limit"),
    "error infinite": (FORWARD, {"measures": one_measure(error=INF)}, "∞ x the limit"),
    "error negative": (FORWARD, {"measures": one_measure(error=-1.0)}, "no usable limit"),
    "limit NaN": (FORWARD, {"measures": one_measure(limit=NAN)}, "no usable limit"),
    "limit negative": (FORWARD, {"measures": one_measure(limit=-1.0)}, "no usable limit"),
    "limit infinite": (FORWARD, {"measures": one_measure(limit=INF)}, "no usable limit"),
    "limit zero, error not": (FORWARD, {"measures": one_measure(limit=0.0)}, "∞ x the limit"),
    "limit beyond the tolerance": (FORWARD, {"measures": one_measure(limit=1.0)}, "more than the tolerance allows"),
    "limit without a floor": (FORWARD, {"measures": one_measure(limit=9.0, floor=None)}, "more than the tolerance"),
    "floor infinite": (FORWARD, {"measures": one_measure(limit=9.0, floor=INF)}, "more than the tolerance"),
    "floor NaN": (FORWARD, {"measures": one_measure(floor=NAN)}, "more than the tolerance"),
    "token error NaN": (FORWARD, {"measures": one_measure(token_error=NAN)}, "no usable limit"),
    "token limit NaN": (FORWARD, {"measures": one_measure(token_limit=NAN)}, "no usable limit"),
    "token limit infinite": (FORWARD, {"measures": one_measure(token_error=9.0, token_limit=INF)}, "no usable limit"),
    # What was not measured.
    "no measures": (FORWARD, {"measures": ()}, "it compared nothing in float32"),
    "the worst alone": (FORWARD, {"measures": (), "worst": sample_measures()[0]}, "it compared nothing in float32"),
    "not in the model's dtype": (FORWARD, {"measures": only("float32")}, "it compared nothing in bfloat16"),
    "not in float32": (FORWARD, {"measures": only("bfloat16")}, "it compared nothing in float32"),
    "no logits": (FORWARD, {"measures": without("logits")}, "it did not compare logits in float32"),
    "no last block": (FORWARD, {"measures": without("decoder.1", "bfloat16")}, "compare decoder.1 in bfloat16"),
    "no coverage": (FORWARD, {"coverage": {}}, "its coverage does not name 'inputs'"),
    "variant measured nothing": (VARIANT, {"measures": ()}, "it compared nothing in float32"),
    "round trip measured nothing": (ROUND_TRIP, {"measures": ()}, "it compared nothing in float32"),
    "round trip changed a tensor": (
        ROUND_TRIP,
        {"figures": {**BESIDE, "tensors_changed": 1.0, "semantic_keys_changed": 0.0}},
        "tensors_changed = 1.0",
    ),
    "round trip did not count": (ROUND_TRIP, {"figures": BESIDE}, "tensors_changed = nothing"),
    "round trip counted NaN": (ROUND_TRIP, {"figures": {**BESIDE, "tensors_changed": NAN}}, "tensors_changed = nan"),
    "round trip looked at the weights alone": (
        ROUND_TRIP,
        {"figures": {"tensors_changed": 0.0, "semantic_keys_changed": 0.0}},
        "it recorded no companions.kept",
    ),
    "weights measured nothing": (LIVENESS, {"measures": ()}, "it compared nothing in float32"),
    "layer order of two layers": (ORDER, {"measures": only("float32")}, "it did not compare decoder.2 in float32"),
    "positions in one dtype": (POSITIONS, {"measures": only("float32")}, "it compared nothing in bfloat16"),
    "positions that are not told": (POSITIONS, {"coverage": {}}, "its coverage does not name 'positions'"),
    "training steps measured nothing": (STEPS, {"measures": ()}, "it compared nothing in float32"),
    "training steps in no layout": (STEPS, {"coverage": {}}, "its coverage does not name 'layout'"),
    "a layout that did not run": (LAYOUT, {"ran": {"layout": "single"}}, "layout=tp2 was asked for, and single ran"),
    "a layout that measured nothing": (LAYOUT, {"measures": ()}, "it compared nothing in float32"),
    "a damaged checkpoint that was accepted": (
        *(RESUME, {"figures": {"resume.damaged_accepted": 1.0}}, "it recorded resume.damaged_accepted = 1.0"),
    ),
    "no export was compared": (CONVERTED, {"figures": {}}, "it recorded no conversion.tensors"),
    "gradients measured nothing": (GRADIENTS, {"measures": ()}, "it compared nothing in float32"),
    "no config key was tried": (KEYS, {"coverage": {}}, "its coverage does not name 'config key'"),
    "config keys without an answer": (
        KEYS,
        {"coverage": {"config key a": "inert", "other": "alike"}},
        "no config key that it changed was answered",
    ),
    "a config key is ignored": (
        KEYS,
        {"coverage": {"config key a": "alike", "config key b": "silently ignored"}},
        "config key b is recorded as silently ignored",
    ),
    "nothing was downloaded": (DOWNLOAD, {"figures": {}}, "it recorded no bytes_kept"),
    "nothing was converted": (CONVERSION, {"figures": {"bytes_written": 0.0}}, "it recorded no bytes_written"),
    "no published dtype": (DOWNLOAD, {"published_dtype": ""}, "in which dtype the model was published"),
    "an unknown published dtype": (DOWNLOAD, {"published_dtype": "int8"}, "in which dtype the model was published"),
    # Of something else.
    "another model": (FORWARD, {"model": "mixtral"}, "its evidence belongs to test_forward_equivalence[mixtral]"),
    "another step": (CONVERSION, {"step": "test_gradients"}, "its evidence belongs to test_gradients[smollm2]"),
    "another variant": (
        VARIANT,
        {"variant": "attention=eager", "ran": {"attention": "eager"}},
        "another variant: attention=eager, expected attention=sdpa",
    ),
    "no variant": (VARIANT, {"variant": None}, "another variant: none, expected attention=sdpa"),
    "a variant where none was asked for": (FORWARD, {"variant": "attention=sdpa"}, "expected none"),
    "the default ran instead": (VARIANT, {"ran": {"attention": "eager"}}, "asked for, and eager ran"),
    "nothing says what ran": (VARIANT, {"ran": {}}, "asked for, and nothing ran"),
    "another subject": (FORWARD, {"subject": "fast_llm"}, "another subject: fast_llm, expected reference"),
    "another commit": (FORWARD, {"subject_commit": "b" * 40}, "another commit"),
    "another model id": (FORWARD, {"model_id": "evil/model"}, "another model: evil/model"),
    "another revision": (FORWARD, {"revision": "c" * 40}, "another revision"),
    "no revision": (DOWNLOAD, {"revision": ""}, "another revision: none"),
    "other layers": (FORWARD, {"layers": 1}, "another layers: 1, expected 2"),
    "chosen layers": (FORWARD, {"picked": (0, 3)}, "another part of the model: layers 0,3, whole, expected the first"),
    "a slice": (FORWARD, {"slice": "vocab=9"}, "another part of the model: the first layers, vocab=9, expected"),
    "another device": (FORWARD, {"device": "cpu"}, "another device: cpu, expected cuda"),
    # The evidence itself.
    "a failure": (FORWARD, {"failure_class": "numeric_mismatch", "diagnosis": "query is wrong"}, "query is wrong"),
    "an infrastructure failure": (FORWARD, {"failure_class": "hub_unavailable"}, "records a failure: hub_unavailable"),
    "none": (FORWARD, {"raw": ""}, "it recorded no evidence"),
    "none of a step without figures": (CONVERSION, {"raw": ""}, "it recorded no evidence"),
    "no JSON": (FORWARD, {"raw": "{"}, "its evidence is unreadable"),
    "an unknown key": (FORWARD, {"raw": '{"model": "smollm2", "step": "test_conversion", "x": 1}'}, "is unreadable"),
    "an unknown class": (FORWARD, {"raw": '{"model": "a", "step": "b"}'}, "is unreadable"),
}


@pytest.mark.parametrize("forgery", EVIDENCE)
def test_a_pass_that_its_evidence_does_not_prove_is_red(forgery: str) -> None:
    test, changes, says = EVIDENCE[forgery]
    results = build({test: Fault(None, evidence=changes)})
    assert (results.verdict, exit_code(results)) == ("failed", 1)
    case = results.case("smollm2", test)
    assert case is not None
    assert (case.outcome, case.failure_class, case.infrastructure) == ("failed", "unproven", False)
    assert case.headline.startswith("reported as passed, but ")
    assert says in case.headline


@pytest.mark.parametrize("test", deep_plan().entries[0].tests)
def test_a_bare_testcase_is_red_in_every_step(test: str) -> None:
    results = build({test: Fault(None, evidence={"raw": ""})})
    assert [(cause.failure_class, cause.cases[0][1]) for cause in results.causes] == [("unproven", test)]


def test_bare_testcases_are_red_and_one_cause() -> None:
    plan = deep_plan()
    bare = "".join(f'<testcase name="{test}"/>' for test in plan.entries[0].tests)
    results = build_results(plan, read_junit(document(bare)))
    assert (results.verdict, results.totals.passed) == ("failed", 0)
    (cause,) = results.causes
    assert (cause.failure_class, cause.title) == ("unproven", "reported as passed, but it recorded no evidence")
    assert "unproven pass" in render_markdown(results)
    assert "unproven pass" in render_html(results)


def test_evidence_is_not_accepted_from_the_test_beside_it() -> None:
    """One green test's evidence, copied into every other one."""
    plan, copied = deep_plan(), to_property(evidence_of(FORWARD, "smollm2"))[1]
    others = [test for test in plan.entries[0].tests if test != FORWARD]
    results = build({test: Fault(None, evidence={"raw": copied}) for test in others})
    assert results.totals.passed == 1
    assert {case.failure_class for case in results.entries[0].cases if case.name != FORWARD} == {"unproven"}


def test_a_second_property_does_not_replace_the_first() -> None:
    good = to_property(evidence_of(FORWARD, "smollm2"))[1]
    one = samples.with_property(FORWARD, good)
    two = one.replace("</properties>", one.split("<properties>")[1].split("</properties>")[0] + "</properties>")
    content = junit(deep_plan(), {FORWARD: None}).replace(b"</testsuite>", two.encode() + b"</testsuite>")
    results = build_results(deep_plan(), read_junit(content))
    assert results.causes[0].failure_class == "unproven"


@pytest.mark.parametrize("plan", [plan_of("smollm2", layers=3), plan_of("smollm2", device="cpu")])
def test_evidence_of_another_request_is_red_even_if_all_of_it_agrees(plan: Plan) -> None:
    results = build_results(plan, read_junit(junit(plan)))
    assert {cause.failure_class for cause in results.causes} == {"unproven"}
    assert results.totals.passed == 0


@pytest.mark.parametrize("unnamed", [{"revision": ""}, {"layers": 0}])
def test_evidence_that_names_no_checkpoint_is_red_where_nothing_else_names_it(unnamed: dict[str, Any]) -> None:
    models = {"smollm2": replace(samples.MODELS["smollm2"], revision=None, num_layers_to_keep="auto")}
    plan = plan_of("smollm2", models=models)
    faults = {test: Fault(None, evidence=unnamed) for test in plan.entries[0].tests}
    results = build_results(plan, read_junit(junit(plan, faults)))
    assert "it recorded no revision, or no layers" in results.causes[0].title
    assert build_results(plan, read_junit(junit(plan))).verdict == "passed"


def test_a_checkpoint_that_was_not_fetched_is_red_even_if_all_evidence_agrees() -> None:
    other = replace(FETCHED, revision="d" * 40)
    results = build_results(deep_plan(), read_junit(junit(deep_plan())), fetched={"smollm2": other})
    assert results.totals.passed == 0
    assert {cause.failure_class for cause in results.causes} == {"unproven"}


@pytest.mark.parametrize(
    ("test", "changes"),
    [
        (FORWARD, {"measures": one_measure(error=0.0, limit=0.0, floor=None)}),  # bit for bit
        (FORWARD, {"measures": one_measure(error=4e-6)}),  # exactly the limit
        (FORWARD, {"measures": one_measure(token_error=0.1, token_limit=0.1)}),
        (FORWARD, {"subject_commit": samples.SHA}),
        (FORWARD, {"subject_commit": f"{samples.SHA}-dirty"}),
        (DOWNLOAD, {"published_dtype": "float32"}),
        (KEYS, {"coverage": {"config key a": "refused", "config key b": "inert"}}),
    ],
)
def test_what_proves_a_pass_stays_green(test: str, changes: dict[str, Any]) -> None:
    assert build({test: Fault(None, evidence=changes)}).verdict == "passed"


def test_a_float32_model_is_compared_in_float32_only() -> None:
    tests = [test for test in deep_plan().entries[0].tests if test == FORWARD or "implementation" in test]
    single = {test: Fault(None, evidence={"measures": only("float32")}) for test in tests}
    single[DOWNLOAD] = Fault(None, evidence={"published_dtype": "float32"})
    assert build(single).verdict == "passed"


def test_every_step_has_its_requirement() -> None:
    """A new step must say here what its pass must show."""
    assert set(STEP_REQUIREMENTS) == {*DEFAULT_TESTS, SERVED_TEST, *DEEP_TESTS}


# A variant that did not run.


@dataclass(frozen=True)
class Skip:
    """A variant that did not run: its test, what its subject says that it needs, on which device."""

    axis: str
    name: str
    need: str
    device: str
    accepted: bool
    subject: str = "fast_llm"
    changes: Mapping[str, Any] = field(default_factory=dict)


SKIPS = {
    "flash without a GPU": Skip("attention", "flash", "cuda", "cpu", accepted=True),
    "flash with a GPU": Skip("attention", "flash", "cuda", "cuda", accepted=False),
    "flash-attn is not installed": Skip("attention", "flash", "flash-attn", "cuda", accepted=True),
    "flash-attn is listed": Skip(
        "attention", "flash", "flash-attn", "cuda", accepted=False, changes={"libraries": {"flash-attn": "2.8"}}
    ),
    "a window in the model": Skip("attention", "sdpa_nested", "attention without a window", "cuda", accepted=True),
    "a need that no offer names": Skip("attention", "flash", "good weather", "cuda", accepted=False),
    "a need of another variant": Skip("attention", "sdpa_nested", "flash-attn", "cuda", accepted=False),
    "no need": Skip("attention", "flash", "", "cpu", accepted=False),
    "a variant that needs nothing": Skip("attention", "backup", "cuda", "cpu", accepted=False),
    "the reference needs nothing": Skip("attention", "sdpa", "cuda", "cpu", accepted=False, subject="reference"),
    "of another variant": Skip(
        "attention", "flash", "flash-attn", "cuda", accepted=False, changes={"variant": "attention=backup"}
    ),
    "on another device": Skip("attention", "flash", "cuda", "cuda", accepted=False, changes={"device": "cpu"}),
}


@pytest.mark.parametrize("name", SKIPS)
def test_a_variant_is_excused_only_by_a_need_that_its_offer_knows(name: str) -> None:
    skip = SKIPS[name]
    plan = plan_of("smollm2", subject=skip.subject)
    test = f"test_implementation[{skip.axis}-{skip.name}-smollm2]"
    faults: dict[str, Fault | None] = {
        t: Fault(None, evidence={"device": skip.device}) for t in plan.entries[0].tests if t != test
    }
    said = did_not_run(f"{skip.axis}={skip.name}", skip.need)
    faults[test] = replace(said, evidence={**said.evidence, "device": skip.device, **skip.changes})
    case = build(faults, plan).case("smollm2", test)
    assert case is not None
    expected = ("did_not_run", "variant_did_not_run") if skip.accepted else ("failed", "unproven")
    assert (case.outcome, case.failure_class) == expected
    assert case.infrastructure is False


@pytest.mark.parametrize("said", ["did not run: the subject does not offer gradients", ""])
def test_a_planned_step_is_not_left_out_by_the_subjects_own_word(said: str) -> None:
    skip = Fault("skipped", said or "skipped", "", {"failure_class": "variant_did_not_run", "diagnosis": said})
    case = build({GRADIENTS: skip}).case("smollm2", GRADIENTS)
    assert case is not None
    assert (case.outcome, case.failure_class) == ("failed", "unproven")


@pytest.mark.parametrize("offered", [True, False])
def test_gradients_are_excused_by_the_offer_alone(offered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = replace(find_offer("reference"), gradients=offered)
    monkeypatch.setattr(suite_tests, "find_offer", lambda _: offer)
    said = "did not run: the subject does not offer gradients"
    skip = Fault("skipped", said, "", {"failure_class": "variant_did_not_run", "diagnosis": said})
    results = build({GRADIENTS: skip}, deep_plan())
    case = results.case("smollm2", GRADIENTS)
    assert case is not None
    assert (case.outcome, results.verdict) == (("failed", "failed") if offered else ("did_not_run", "passed"))
    assert said in render_markdown(results)
    assert build({GRADIENTS: None}, deep_plan()).verdict == ("failed" if offered else "passed")
    assert build({GRADIENTS: mismatch()}, deep_plan()).verdict == "failed", "what ran counts, offered or not"
    assert build({LIVENESS: skip}, deep_plan()).verdict == "failed", "only of gradients the offer says so"


SERVED = "test_served_export[smollm2]"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"measures": ()}, "it compared nothing in float32"),
        ({"coverage": {}}, "its coverage does not name 'served by'"),
    ],
)
def test_a_served_export_must_be_compared_in_both_dtypes(changes: dict[str, Any], says: str) -> None:
    faults = {SERVED: Fault(None, evidence=served_evidence(**changes))}
    results = build(faults, plan_of("smollm2", consumer="vllm"))
    case = results.case("smollm2", SERVED)
    assert case is not None
    assert (case.outcome, results.verdict) == (("failed", "failed") if says else ("passed", "passed"))
    assert says in case.headline


@pytest.mark.parametrize(
    ("need", "outcome", "verdict"),
    [("vllm", "did_not_run", "neutral"), ("sglang", "failed", "failed"), ("", "failed", "failed")],
)
def test_an_engine_that_is_not_here_is_neither_green_nor_red(need: str, outcome: str, verdict: str) -> None:
    skip = did_not_run("consumer", need)
    results = build({SERVED: skip}, plan_of("smollm2", consumer="vllm"))
    case = results.case("smollm2", SERVED)
    assert case is not None
    assert (case.outcome, results.verdict) == (outcome, verdict)
    assert build({FORWARD: did_not_run("x", "vllm")}, plan_of("smollm2", consumer="vllm")).verdict == "failed"


@pytest.mark.parametrize(
    ("needs", "said", "lists", "accepted"),
    [
        ("flash-attn", "flash-attn", {}, True),
        ("flash-attn", "flash-attn", {"flash-attn": "2.8"}, False),
        ("flash-attn", "xformers", {}, False),
        ("cuda", "flash-attn", {}, False),
    ],
)
def test_a_library_that_a_variant_always_needs_counts_where_it_is_missing(
    needs: str, said: str, lists: dict[str, str], accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = Variant("attention", "flash", needs=needs)
    offer = replace(find_offer("fast_llm"), variants=(variant,), conditional_needs={})
    monkeypatch.setattr(evidence_requirements, "find_offer", lambda _: offer)
    monkeypatch.setattr(suite_tests, "find_offer", lambda _: offer)
    skip = did_not_run("attention=flash", said)
    test = "test_implementation[attention-flash-smollm2]"
    plan = plan_of("smollm2", subject="fast_llm")
    case = build({test: replace(skip, evidence={**skip.evidence, "device": "cuda", "libraries": lists})}, plan).case(
        "smollm2", test
    )
    assert case is not None
    assert case.outcome == ("did_not_run" if accepted else "failed")


# The suite's exit code, and how it ended.

NOTHING: dict[str, Fault | None] = {}
LEFT: dict[str, Fault | None] = {LIVENESS: None, GRADIENTS: None}
FAILED: dict[str, Fault | None] = {FORWARD: mismatch()}
COLLECTION = '<testcase name="suite"><error message="collection failure">E   ImportError: x</error></testcase>'
ENDS: dict[str, tuple[dict[str, Fault | None], dict[str, Any], str, set[str]]] = {
    # faults, how the attempt ended → verdict and the classes of the causes
    "all passed, exit 0": (NOTHING, {"exit_code": 0}, "passed", set()),
    "an older folder without exit code": (NOTHING, {}, "passed", set()),
    "all passed, exit 1": (NOTHING, {"exit_code": 1}, "failed", {"unproven"}),
    "all passed, internal error": (NOTHING, {"exit_code": 3}, "failed", {"unproven"}),
    "all passed, killed": (NOTHING, {"exit_code": -9}, "failed", {"unproven"}),
    "all passed, no exit code in a folder that must have one": (
        NOTHING,
        {"records_exit_code": True},
        "failed",
        {"unproven"},
    ),
    "all passed, interrupted": (NOTHING, {"exit_code": 2}, "neutral", {"interrupted"}),
    "all passed, interrupted by a shell": (NOTHING, {"exit_code": 130}, "neutral", {"interrupted"}),
    "all passed, time limit": (NOTHING, {"exit_code": 2, "ended": "time limit of 5 s"}, "failed", {"timeout"}),
    "all passed, time limit too late": (NOTHING, {"exit_code": 0, "ended": "time limit of 5 s"}, "passed", set()),
    "a failure, exit 0": (FAILED, {"exit_code": 0}, "failed", {"numeric_mismatch"}),
    "a failure, exit 1": (FAILED, {"exit_code": 1}, "failed", {"numeric_mismatch"}),
    "tests are missing, exit 0": (LEFT, {"exit_code": 0}, "failed", {"missing_result"}),
    "tests are missing, exit 3": (LEFT, {"exit_code": 3}, "failed", {"missing_result"}),
    "interrupted by the user": (LEFT, {"exit_code": 2, "ended": "interrupted"}, "neutral", {"interrupted"}),
    "interrupted, nothing recorded the end": (LEFT, {"exit_code": 2}, "neutral", {"interrupted"}),
    "interrupted and killed": (LEFT, {"ended": "interrupted"}, "neutral", {"interrupted"}),
    "interrupted while a test ran": (
        LEFT,
        {"exit_code": 2, "ended": "interrupted", "running": (LIVENESS,)},
        "neutral",
        {"interrupted"},
    ),
    "out of time": (LEFT, {"exit_code": 2, "ended": "time limit of 5 s"}, "failed", {"timeout"}),
    "interrupted after a failure": (
        {**LEFT, **FAILED},
        {"exit_code": 2, "ended": "interrupted"},
        "failed",
        {"numeric_mismatch", "interrupted"},
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_exit_code_and_the_tests_agree_or_the_result_says_so(end: str) -> None:
    faults, how, verdict, classes = ENDS[end]
    results = build(faults, **how)
    assert (results.verdict, {cause.failure_class for cause in results.causes}) == (verdict, classes)
    assert bool(results.entries[0].notes) == (end in ("a failure, exit 0", "tests are missing, exit 3"))


def test_an_interrupted_run_says_so_first() -> None:
    results = build(LEFT, exit_code=2, ended="interrupted")
    assert exit_code(results) == 3
    first, _, facts, *_ = render_markdown(results).splitlines()
    assert first == "## ⚠️ Interrupted: no answer for 1 of 1 model: the run was interrupted"
    tests = deep_plan().entries[0].tests
    assert f"{len(tests) - 2} of {len(tests)} tests passed" in facts
    assert "says nothing about this change" in render_markdown(results)
    failed = build({**LEFT, **FAILED}, exit_code=2, ended="interrupted")
    assert "Failed: 1 of 1 model, 1 cause, then interrupted" in render_markdown(failed)


def test_a_suite_that_found_no_tests_was_not_interrupted() -> None:
    """pytest's exit code is 2 in both cases."""
    attempt = Attempt(1, read_junit(document(COLLECTION)), exit_code=2)
    results = build_results(deep_plan(), {"smollm2": (attempt,)})
    assert results.verdict == "failed"
    assert {cause.failure_class for cause in results.causes} == {"collection", "missing_result"}


@pytest.mark.parametrize("job", [Job("cancelled"), Job("success"), Job("failure")])
def test_an_interrupted_job_is_interrupted(job: Job) -> None:
    attempt = Attempt(1, read_junit(junit(deep_plan(), LEFT)), ended="interrupted", exit_code=2)
    results = build_results(deep_plan(), {"smollm2": (attempt,)}, {"smollm2": job})
    assert {cause.failure_class for cause in results.causes} == {"interrupted"}


def test_a_job_that_github_ended_for_its_time_is_not_interrupted() -> None:
    attempt = Attempt(1, read_junit(junit(deep_plan(), LEFT)), ended="interrupted", exit_code=2)
    results = build_results(deep_plan(), {"smollm2": (attempt,)}, {"smollm2": Job("timed_out")})
    assert (results.verdict, {cause.failure_class for cause in results.causes}) == ("failed", {"timeout"})


@pytest.mark.parametrize(
    ("faults", "code", "verdicts"),
    [
        ({}, 0, ["passed", "passed"]),
        ({}, 1, ["failed", "failed"]),
        ({FORWARD: mismatch()}, 1, ["failed", "passed"]),
        ({"test_hub_model_conversion[mistral]": None}, 2, ["passed", "neutral"]),
        ({}, 2, ["neutral", "neutral"]),
    ],
)
def test_one_exit_code_of_several_models(faults: dict[str, Fault | None], code: int, verdicts: list[str]) -> None:
    plan = plan_of("smollm2", "mistral")
    results = build_results(plan, Attempt(1, read_junit(junit(plan, faults)), exit_code=code))
    assert [entry.verdict for entry in results.entries] == verdicts


def test_a_machine_without_the_gpu_of_its_tests_is_noted() -> None:
    (note,) = build({}, host={"gpus": "none"}).entries[0].notes
    assert note == "the tests say that they ran on a GPU, but the machine lists none: none"
    assert not build({}, host={"gpu0": "H100"}).entries[0].notes


def test_the_flag_of_a_measure_is_believed_nowhere() -> None:
    """The same forgery through every later step: table, chart and history show what was measured."""
    results = build({FORWARD: Fault(None, evidence={"measures": one_measure(error=1.6e-2), "worst": None})})
    case = results.case("smollm2", FORWARD)
    assert case is not None
    assert case.evidence is not None
    assert case.evidence.worst is not None
    assert case.used == case.evidence.worst.used == pytest.approx(4000)
    for render in (render_markdown, render_html):
        shown: Callable[[Results], str] = render
        assert "4,000 x" in shown(results)
    assert json.loads(to_property(case.evidence)[1])["worst"]["error"] == 1.6e-2


@pytest.mark.parametrize(
    ("test", "need", "accepted"),
    [
        ("test_training_step", HUGGING_FACE_NEED, True),
        ("test_resume", HUGGING_FACE_NEED, True),
        ("test_gradients", HUGGING_FACE_NEED, True),
        ("test_implementation[layout-dp2", HUGGING_FACE_NEED, True),
        ("test_training_step", PLAIN, True),
        ("test_training_step", "a nicer model", False),
        ("test_weight_liveness", HUGGING_FACE_NEED, False),
    ],
)
def test_training_is_excused_where_hugging_face_or_a_known_need_does_not_allow_it(
    test: str, need: str, accepted: bool
) -> None:
    name = f"{test}-smollm2]" if "[" in test else f"{test}[smollm2]"
    evidence = {"failure_class": "variant_did_not_run", "diagnosis": "did not run: why", "unmet_need": need}
    evidence |= {"variant": "layout=dp2"} if "[" in test else {}
    case = build({name: Fault("skipped", "did not run: why", "", evidence)}, deep_plan()).case("smollm2", name)
    assert case is not None
    assert case.outcome == ("did_not_run" if accepted else "failed")
