"""The machine-readable result of one test, stored in JUnit XML as a property.

The suite writes it with `to_property`. The report does not trust it and reads it with `ci.report.evidence_parser`.
This module imports no heavy library, because gate, plan and report use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ci.phases import PhaseTime
from ci.records import NON_FINITE, STRICT, to_json

PROPERTY = "hub-tests"
"""Name of the one JUnit property that carries an Evidence as JSON."""

Step = Literal[
    "test_download_and_truncate",
    "test_conversion",
    "test_forward_equivalence",
    "test_moe_implementation",
    "test_implementation",
    "test_hub_model_conversion",
    "test_served_export",
    "test_config_sensitivity",
    "test_weight_liveness",
    "test_layer_order",
    "test_positions",
    "test_gradients",
    "test_training_step",
    "test_resume",
    "test_layout_conversion",
]

FailureClass = Literal[
    "numeric_mismatch",
    "non_finite",
    "missing_tensor",
    "unexpected_tensor",
    "shape_mismatch",
    "config_mismatch",
    "export_incomplete",
    "precision",
    "variant_did_not_run",
    "unsupported",
    "out_of_memory",
    "hub_unavailable",
    "gated",
    "not_truncatable",
    "remote_code",
    "quantized",
    "timeout",
    "crash",
    "collection",
    "environment",
    "dependency",
    "missing_result",
    "unproven",
    "interrupted",
    "other",
]
"""Why a test did not pass. The classes in INFRASTRUCTURE make a verdict neutral and never blame the pull request.

"unproven" is a pass that its own records do not carry: no evidence, evidence of another test, model, subject or
revision, a comparison that is missing, without a usable limit or beyond it, a skipped variant that could have run, or a
suite whose exit code contradicts its results. "interrupted" is what a user or a cancelled job ended before its result.
"not_truncatable", "remote_code" and "quantized" are limits of hub-tests itself. "precision" is an operation that rounds
too much and is right, where the entry's `precision_policy` makes that a failure.
"""

SUBJECT_FAILURES: Mapping[str, FailureClass] = {
    "unsupported": "unsupported",
    "crash": "crash",
    "protocol": "crash",
    "timeout": "timeout",
    "out_of_memory": "out_of_memory",
}
"""The failure class of each `SubjectError.failure`; any other is "other"."""

INFRASTRUCTURE: frozenset[str] = frozenset(
    {"hub_unavailable", "gated", "not_truncatable", "remote_code", "quantized", "environment", "interrupted"}
)


@dataclass(frozen=True)
class Measure:
    """One tensor compared with the reference. `error` is the relative L2 error, without a unit.

    An error above `limit` fails. `floor` is the noise floor of the reference (None if not measured), `ratio` is
    error / floor. `worst_index` is where |actual - expected| is largest, `expected` and `actual` are the values there.
    `token_error` is the error of the worst single token, with its own limit. `case` is the input for which the tensor
    was closest to its limit. `symmetry` names the exact symmetry that was undone before the comparison.
    """

    __pydantic_config__: ClassVar[Any] = NON_FINITE

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    error: float
    limit: float
    floor: float | None = None
    ratio: float | None = None
    max_abs: float = 0.0
    rms_abs: float = 0.0
    rms_rel: float = 0.0
    max_rel: float = 0.0
    worst_index: tuple[int, ...] = ()
    expected: float | str | None = None
    actual: float | str | None = None
    passed: bool = True
    case: str = ""
    token_error: float = 0.0
    token_limit: float | None = None
    symmetry: str = ""

    @property
    def used(self) -> float:
        """Error divided by limit, the larger one of tensor and token: 1.0 is the limit; infinity without a meaning."""
        return max(_divide(self.error, self.limit), self._token_share)

    @property
    def decisive(self) -> tuple[float, float]:
        """The error and the limit that `used` divides: the tensor's, or those of its worst token."""
        return (self.token_error, self.token_limit or 0.0) if self.decided_by_token else (self.error, self.limit)

    @property
    def decided_by_token(self) -> bool:
        """Whether the worst token is closer to its limit than the whole tensor."""
        return self._token_share > _divide(self.error, self.limit)

    @property
    def _token_share(self) -> float:
        if self.token_limit is None and not math.isnan(self.token_error):
            return 0.0
        return _divide(self.token_error, self.token_limit if self.token_limit is not None else math.nan)


def _divide(error: float, limit: float) -> float:
    """Return error / limit; infinity where that says nothing.

    A bit-exact comparison has limit 0: error 0 used nothing of it. NaN, a negative value and a limit without end say
    nothing. Every comparison with NaN is false, so `max` could drop it and hide the error.
    """
    if not (error >= 0 and 0 <= limit < math.inf):
        return math.inf
    if limit == 0:
        return math.inf if error else 0.0
    return error / limit


@dataclass(frozen=True)
class Heat:
    """The error by layer and token position, for one input and one sequence: at most 66 x 64 values.

    `rows` are tensors in execution order, `columns` the first position of each bin. `values[row][column]` is
    log10(largest token error of the bin / its limit); above 0 is over the limit.
    """

    __pydantic_config__: ClassVar[Any] = NON_FINITE

    case: str
    dtype: str
    rows: tuple[str, ...]
    columns: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerRouting:
    """The chosen experts of one layer, compared with the reference. Gaps and margins are differences of router logits.

    A flip is another choice of experts for a token. Rounding explains a small flip: the flip and its consequences do
    not count. A large flip is a bug.
    """

    __pydantic_config__: ClassVar[Any] = NON_FINITE

    layer: int
    tokens: int
    small_flips: int
    large_flips: int
    largest_gap: float
    smallest_margin: float
    case: str = ""
    dtype: str = ""


SERVED_LOGPROBS = "served.logprobs"
"""The `tensor` of a measure of scored tokens: the gap of an engine's log-probabilities to Hugging Face."""


@dataclass(frozen=True)
class ServedGap:
    """The largest |Δ log p| in nats, engine against Hugging Face, by token position; at most 64 bins.

    `positions` is the first position of each bin, `original` and `export` the gaps of the two checkpoints there.
    """

    __pydantic_config__: ClassVar[Any] = NON_FINITE

    case: str
    dtype: str
    positions: tuple[int, ...]
    original: tuple[float, ...]
    export: tuple[float, ...]


Fate = Literal["kept", "changed", "dropped", "added"]
CompanionJudgement = Literal["equal", "permitted", "finding", "defect"]


@dataclass(frozen=True)
class Companion:
    """One thing beside the weights, and what an export made of it.

    `part` is the file or the group, `name` the key, file, template or token in it, `before` and `after` the values as
    short text. A "finding" is a warning or red by the entry's `export_policy`, a "defect" is red in any case, and what
    is "permitted" changed without any consequence that hub-tests knows; `reason` says why.
    """

    part: str
    name: str
    fate: Fate
    judgement: CompanionJudgement
    before: str = ""
    after: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """The result of one test: what was tested, what was measured, and where a failure began.

    `half` is the faulty component (conversion, kernel, both, or unknown), `operation` the faulty operation in `layer`.
    `published_dtype` is the dtype that the model was published in, recorded once, by the download. `unmet_need` names
    what a variant that did not run needs and lacks here, as its subject says ("cuda", "flash-attn", …).
    `warnings` are findings that the entry's policies do not make red; reports show them beside a pass.
    `isolation` says how the subject's code was kept apart from the judge that wrote this. `picked` are the upstream
    indices of chosen layers, empty where the first ones are kept; `slice` is the kept part of vocabulary and experts,
    like `vocab=4096,experts=4`. `phases` are the seconds of the test by phase, as far as the suite measured them:
    `ci.report.phase_times` adds the rest of the wall time. `companions` are what an export keeps, changes, drops and
    adds beside its weights.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    model: str
    step: Step
    model_id: str = ""
    revision: str = ""
    layers: int = 0
    subject: str = ""
    subject_version: str = ""
    subject_commit: str | None = None
    device: str = ""
    dtype: str = ""
    variant: str | None = None
    ran: Mapping[str, str] = field(default_factory=dict)
    failure_class: FailureClass | None = None
    diagnosis: str = ""
    half: str = ""
    layer: int | None = None
    operation: str = ""
    worst: Measure | None = None
    heat: Heat | None = None
    routing: tuple[LayerRouting, ...] = ()
    measures: tuple[Measure, ...] = ()
    coverage: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reproduce: str = ""
    published_dtype: str = ""
    unmet_need: str = ""
    isolation: str = ""
    picked: tuple[int, ...] = ()
    slice: str = ""
    phases: tuple[PhaseTime, ...] = ()
    served: tuple[ServedGap, ...] = ()
    companions: tuple[Companion, ...] = ()


FINGERPRINT = "reference_fingerprint"
"""Key in `figures`: one number that represents Hugging Face's own output for the inputs."""
NOT_ISOLATED = "none: "
"""How `Evidence.isolation` begins where the subject could have reached the judge; the reason follows."""
REPEATED = "failed with compiled code of earlier runs, so it was repeated without: "
"""Prefix of a note of a test that a stale compile cache could have failed; what came of it follows."""
HUGGING_FACE_NEED = "Hugging Face's side"
"""The `unmet_need` of a test for which Hugging Face's own side does not run: no limit of the subject."""
NOT_COVERED = "not covered: "
"""Prefix of a value in `coverage` that says what the inputs did not reach."""


def to_property(evidence: Evidence) -> tuple[str, str]:
    """Return the (name, value) pair for pytest's `record_property`."""
    return PROPERTY, to_json(evidence)
