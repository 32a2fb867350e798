"""What a test must have recorded before its pass counts, step by step. A pass that proves nothing is red.

The rules believe no flag of the evidence: they compare it with the plan, with the fetched checkpoint, and with the
measured numbers. Each limit is computed again from its noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.equivalence.tolerances import MIN_FLOOR, SYNTHETIC_LAYERS, NoiseFloor, Tolerances
from ci.evidence import HUGGING_FACE_NEED, Measure
from ci.hub.layers import format_layers, make_choice
from ci.layouts import LAYOUT_AXIS
from ci.subjects.base import Variant
from ci.subjects.registry import find_offer
from ci.suite.tests import GRADIENTS_TEST, SERVED_TEST, TRAINING_TESTS, list_variant_tests
from ci.suite.training import ONE_PROCESS
from ci.tensor_names import EMBEDDINGS, FINAL_NORM, LOGITS, block_name
from ci.units import format_share_of_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.evidence import Evidence
    from ci.hub.fetch import Checkpoint
    from ci.models import HubModel
    from ci.plan import PlanEntry, RunRequest

DOWNLOAD_STEP = "test_download_and_truncate"
SENSITIVITY_STEP = "test_config_sensitivity"
PUBLISHED_DTYPES = ("float32", "bfloat16", "float16")
MAX_BLOCKS = 150
"""The suite records at most 160 measures a comparison, blocks first: a deeper model has not all of them."""
GPU_NEEDS = frozenset({"cuda", "triton"})
"""Needs of a variant that every machine with a GPU meets and no other one does."""
CONFIG_KEY = "config key "
"""Prefix of the coverage keys of `test_config_sensitivity`; the value is the outcome."""
KEY_ANSWERS = frozenset({"alike", "refused"})
KEY_FAILURES = frozenset({"silently ignored", "differs"})
ROUNDING = 1e-9
"""Relative; a limit is computed twice from the same floor."""


@dataclass(frozen=True)
class StepRequirement:
    """What the tests of one step must record.

    `dtypes`: with a measure in each. `whole_forward`: embeddings, every block, final norm and logits are measured;
    `blocks` is how many blocks, where it is not the number of layers that the entry keeps.
    `coverage`: what begins a key of the coverage. `positive` and `zero` name figures with such values.
    """

    dtypes: tuple[Literal["float32", "published"], ...] = ()
    whole_forward: bool = False
    blocks: int | None = None
    coverage: str = ""
    positive: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()


_FORWARD = StepRequirement(dtypes=("float32", "published"), whole_forward=True, coverage="inputs")
_TRAINING = StepRequirement(dtypes=("float32",), coverage="layout", positive=("training.quantities",))
STEP_REQUIREMENTS: Mapping[str, StepRequirement] = {
    DOWNLOAD_STEP: StepRequirement(positive=("bytes_kept",)),
    "test_conversion": StepRequirement(positive=("bytes_written",)),
    "test_forward_equivalence": _FORWARD,
    "test_moe_implementation": _FORWARD,
    "test_implementation": _FORWARD,
    "test_hub_model_conversion": StepRequirement(
        dtypes=("float32",),
        whole_forward=True,
        positive=("companions.kept",),
        zero=("tensors_changed", "semantic_keys_changed"),
    ),
    SERVED_TEST: StepRequirement(dtypes=("float32", "published"), coverage="served by"),
    SENSITIVITY_STEP: StepRequirement(coverage=CONFIG_KEY),
    "test_weight_liveness": StepRequirement(dtypes=("float32",), whole_forward=True, coverage="inputs"),
    "test_layer_order": StepRequirement(
        dtypes=("float32",), whole_forward=True, blocks=SYNTHETIC_LAYERS, coverage="inputs"
    ),
    "test_positions": StepRequirement(
        dtypes=("float32", "published"), whole_forward=True, blocks=1, coverage="positions"
    ),
    "test_gradients": StepRequirement(dtypes=("float32",)),
    "test_training_step": _TRAINING,
    "test_resume": StepRequirement(dtypes=("float32",), coverage="resume", zero=("resume.damaged_accepted",)),
    "test_layout_conversion": StepRequirement(dtypes=("float32",), coverage="layout", positive=("conversion.tensors",)),
}


@dataclass(frozen=True)
class EntryFacts:
    """What the evidence of an entry's tests must agree with: the plan, the fetched checkpoint, and the download's test.

    "" and None mean unknown: then the tests must only agree with each other. `variants` are the planned variants by
    test id. `picked` are chosen layers and `slice` is the kept part of the rest; empty means the first layers, whole.
    """

    model_id: str
    subject: str
    commit: str
    revision: str
    layers: int | None
    device: str
    published_dtype: str
    compare_factor: float
    variants: Mapping[str, Variant]
    conditional_needs: Mapping[str, tuple[str, ...]]
    consumer: str = ""
    picked: tuple[int, ...] = ()
    slice: str = ""


def collect_facts(
    entry: PlanEntry, request: RunRequest, fetched: Checkpoint | None, download: Evidence | None
) -> EntryFacts:
    """Collect the facts of an entry.

    What is trusted most counts: the fetch, then the plan, then the download's test.
    """
    planned, offer = entry.model, find_offer(request.subject)
    planned_layers = planned.num_layers_to_keep if isinstance(planned.num_layers_to_keep, int) else None
    planned_revision = planned.revision if planned.revision and len(planned.revision) == 40 else ""
    return EntryFacts(
        model_id=planned.model_id,
        subject=offer.name,
        commit=request.sha,
        revision=fetched.revision if fetched else planned_revision or (download.revision if download else ""),
        layers=fetched.layers if fetched else planned_layers or (download.layers if download else None),
        device=request.device or (download.device if download else ""),
        published_dtype=download.published_dtype if download else "",
        compare_factor=planned.test_params.compare_factor,
        variants=list_variant_tests(request.subject, entry.name, planned.checkpoint_format),
        conditional_needs=offer.conditional_needs_of(planned.checkpoint_format),
        consumer=request.consumer or "",
        picked=fetched.picked if fetched else _find_picked(planned),
        slice=str(fetched.slice if fetched else planned.slice),
    )


def _find_picked(planned: HubModel) -> tuple[int, ...]:
    return make_choice(planned.layers).picked if planned.layers else ()


def find_unproven(facts: EntryFacts, test: str, evidence: Evidence | None) -> str:
    """Return why the evidence does not prove a pass; "" if it does."""
    if evidence is None:
        return "it recorded no evidence"
    problems = (
        _list_foreign(facts, test, evidence),
        _list_failures(facts, evidence),
        _list_missing(facts, test, evidence),
    )
    return next((problem for group in problems for problem in group), "")


def find_unexplained_skip(facts: EntryFacts, test: str, evidence: Evidence) -> str:
    """Return why a skipped variant could have run; "" if it could not.

    The subject names what it lacks. Only a need that its offer knows counts, on a device that does not meet it, or for
    a library that the subject does not list. A consumer is optional: the judge itself says that it is not there, or
    does not serve the original. So it says where Hugging Face's own side cannot train a model.
    """
    variant, need = facts.variants.get(test), evidence.unmet_need
    reason = next(_list_foreign(facts, test, evidence), "")
    if reason:
        return f"it was skipped, but {reason}"
    if facts.consumer and test.startswith(f"{SERVED_TEST}[") and need == facts.consumer:
        return ""
    trains = test.split("[", 1)[0] in (GRADIENTS_TEST, *TRAINING_TESTS) or (variant and variant.axis == LAYOUT_AXIS)
    if trains and need in (HUGGING_FACE_NEED, *facts.conditional_needs.get(ONE_PROCESS, ())):
        return ""
    if variant is None:
        return f"the plan promises it, but the subject says: {evidence.diagnosis or 'it did not run'}"
    if variant.needs in GPU_NEEDS and facts.device == "cpu" and need in GPU_NEEDS:
        return ""
    libraries = {variant.needs, *facts.conditional_needs.get(f"{variant.axis}={variant.name}", ())} - GPU_NEEDS
    if need and need in libraries:
        return "" if need not in evidence.libraries else f"the subject says that it lacks {need}, but lists it"
    said = f"needs {need}" if need else evidence.diagnosis or "it did not run"
    return f"the subject says that it cannot run ({said}), but nothing that it needs is missing on {facts.device}"


def is_usable(measure: Measure) -> bool:
    """Return whether a measure compares an error with a limit at all."""
    pairs = [(measure.error, measure.limit)]
    pairs += [(measure.token_error, measure.token_limit)] if measure.token_limit is not None else []
    return all(error >= 0 and 0 <= limit < math.inf for error, limit in pairs) and not math.isnan(measure.token_error)


def _compute_largest_limit(measure: Measure, compare_factor: float) -> float:
    """Return the largest limit that the measure's noise floor justifies.

    Without a floor it is 1: from there on, an answer of zeros would pass.
    """
    if measure.floor is None or measure.dtype not in MIN_FLOOR:
        return 1.0
    if not math.isfinite(measure.floor):
        return 0.0
    dtype: Any = measure.dtype
    floors = {measure.tensor: NoiseFloor(measure.floor)}
    return Tolerances(dtype, floors, compare_factor).get_error_limit(measure.tensor) * (1 + ROUNDING)


def _list_foreign(facts: EntryFacts, test: str, evidence: Evidence) -> Iterator[str]:
    """Yield what shows that the evidence is of another variant, model, subject, checkpoint or device.

    That it is of another test is known before: `ci.report.case_results` drops it then.
    """
    variant = facts.variants.get(test)
    asked = f"{variant.axis}={variant.name}" if variant else None
    pairs = (
        ("variant", evidence.variant, asked, True),
        ("model", evidence.model_id, facts.model_id, True),
        ("subject", evidence.subject, facts.subject, True),
        ("commit", (evidence.subject_commit or "").removesuffix("-dirty"), facts.commit, bool(evidence.subject_commit)),
        ("revision", evidence.revision, facts.revision, True),
        ("layers", evidence.layers, facts.layers, True),
        ("device", evidence.device, facts.device, True),
    )
    for name, recorded, expected, known in pairs:
        if known and (expected or name == "variant") and recorded != expected:
            yield f"its evidence is of another {name}: {recorded or 'none'}, expected {expected or 'none'}"
    if (evidence.picked, evidence.slice) != (facts.picked, facts.slice):
        recorded, expected = _name_part(evidence.picked, evidence.slice), _name_part(facts.picked, facts.slice)
        yield f"its evidence is of another part of the model: {recorded}, expected {expected}"


def _name_part(picked: tuple[int, ...], part: str) -> str:
    return f"{f'layers {format_layers(picked)}' if picked else 'the first layers'}, {part or 'whole'}"


def _list_failures(facts: EntryFacts, evidence: Evidence) -> Iterator[str]:
    """Yield what the evidence itself records as failed, from its numbers and not from its flags."""
    if evidence.failure_class is not None:
        yield f"its evidence records a failure: {evidence.diagnosis or evidence.failure_class}"
    for measure in (evidence.worst, *evidence.measures):
        if measure is None:
            continue
        name = f"{measure.tensor} ({measure.dtype})"
        if not is_usable(measure):
            yield f"{name} has no usable limit: error {measure.error:.1e}, limit {measure.limit:.1e}"
        elif not measure.limit <= _compute_largest_limit(measure, facts.compare_factor):
            yield f"{name} has the limit {measure.limit:.1e}, more than the tolerance allows"
        elif measure.used > 1:
            yield f"{name} is at {format_share_of_limit(measure.used)}"
        elif not measure.passed:
            yield f"{name} is recorded as failed"
    for key, outcome in evidence.coverage.items():
        if key.startswith(CONFIG_KEY) and outcome in KEY_FAILURES:
            yield f"{key} is recorded as {outcome}"


def _list_missing(facts: EntryFacts, test: str, evidence: Evidence) -> Iterator[str]:
    """Yield what the test's step must record and the evidence has not."""
    step = test.split("[", 1)[0]
    variant = facts.variants.get(test)
    in_layout = variant is not None and variant.axis == LAYOUT_AXIS
    required = _TRAINING if in_layout else STEP_REQUIREMENTS.get(step, StepRequirement())
    if step == DOWNLOAD_STEP:
        yield from _list_missing_identity(evidence)
    if variant and evidence.ran.get(variant.axis) != variant.name:
        ran = evidence.ran.get(variant.axis, "nothing")
        yield f"{variant.axis}={variant.name} was asked for, and {ran} ran"
    wanted = ("float32" if name == "float32" else facts.published_dtype for name in required.dtypes)
    for dtype in dict.fromkeys(filter(None, wanted)):
        yield from _list_missing_tensors(evidence, dtype, _list_required_tensors(facts, required))
    if required.coverage and not any(key.startswith(required.coverage) for key in evidence.coverage):
        yield f"its coverage does not name '{required.coverage.strip()}'"
    answers = {outcome for key, outcome in evidence.coverage.items() if key.startswith(CONFIG_KEY)}
    if step == SENSITIVITY_STEP and not KEY_ANSWERS & answers:
        yield "no config key that it changed was answered"
    for name in required.positive:
        if not 0 < evidence.figures.get(name, 0.0) < math.inf:
            yield f"it recorded no {name}"
    for name in required.zero:
        if evidence.figures.get(name) != 0:
            yield f"it recorded {name} = {evidence.figures.get(name, 'nothing')}"


def _list_missing_identity(evidence: Evidence) -> Iterator[str]:
    if not evidence.revision or evidence.layers < 1:
        yield "it recorded no revision, or no layers"
    if evidence.published_dtype not in PUBLISHED_DTYPES:
        yield "it did not record in which dtype the model was published"


def _list_required_tensors(facts: EntryFacts, required: StepRequirement) -> tuple[str, ...]:
    if not required.whole_forward:
        return ()
    layers = facts.layers if required.blocks is None else required.blocks
    blocks = map(block_name, range(min(layers or 0, MAX_BLOCKS)))
    return (EMBEDDINGS, *blocks, FINAL_NORM, LOGITS)


def _list_missing_tensors(evidence: Evidence, dtype: str, required: tuple[str, ...]) -> Iterator[str]:
    measured = {measure.tensor for measure in evidence.measures if measure.dtype == dtype}
    if not measured:
        yield f"it compared nothing in {dtype}"
    elif absent := next((name for name in required if name not in measured), None):
        yield f"it did not compare {absent} in {dtype}"
