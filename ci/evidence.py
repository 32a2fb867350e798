"""What one test of the suite leaves behind: the machine-readable result, carried as a JUnit property.

The suite writes it (`to_property`), the report reads it back as hostile input (`from_property`). Light on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ci.records import NON_FINITE, STRICT, read_json, to_json

PROPERTY = "hub-tests"
"""Name of the one JUnit property that carries an Evidence as JSON."""

Step = Literal[
    "test_download_and_truncate",
    "test_conversion",
    "test_forward_equivalence",
    "test_moe_implementation",
    "test_implementation",
    "test_hub_model_conversion",
    "test_config_sensitivity",
    "test_weight_liveness",
    "test_gradients",
]

FailureClass = Literal[
    "numeric_mismatch",
    "non_finite",
    "missing_tensor",
    "unexpected_tensor",
    "shape_mismatch",
    "config_mismatch",
    "variant_did_not_run",
    "unsupported",
    "out_of_memory",
    "hub_unavailable",
    "gated",
    "timeout",
    "crash",
    "collection",
    "environment",
    "dependency",
    "missing_result",
    "other",
]
"""Why a test is not green. Infrastructure classes make a verdict neutral and never blame the pull request."""

INFRASTRUCTURE: frozenset[str] = frozenset({"hub_unavailable", "gated", "environment"})


@dataclass(frozen=True)
class Measure:
    """One tensor held against the reference. `error` is relative L2, dimensionless.

    `limit` is the error that would fail; `floor` the reference's own noise (None where not measured); `ratio` is
    error / floor; `worst_index` where |actual - expected| is largest, with both values there. `token_error` is the
    error of the worst single token with its own limit, `case` the input under which the tensor was closest to failing.
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

    @property
    def used(self) -> float:
        """Share of the tolerance that the error used: 1.0 is the limit, infinity what is no number."""
        limited = bool(self.token_limit) or math.isnan(self.token_error)
        by_token = _share(self.token_error, self.token_limit) if limited else 0.0
        return max(_share(self.error, self.limit), by_token)


def _share(error: float, limit: float | None) -> float:
    """`error` over `limit`. A NaN loses every comparison, `max` among them: it must not pass for a small one."""
    return math.inf if not limit or math.isnan(error / limit) else error / limit


@dataclass(frozen=True)
class Heat:
    """Where in layers and positions the error sits, for one input and one row: at most 66 x 64 values.

    `rows` are tensors in execution order, `columns` the first position of each bin; `values[row][column]` is
    log10(largest token error of the bin / its limit): above 0 is red.
    """

    __pydantic_config__: ClassVar[Any] = NON_FINITE

    case: str
    dtype: str
    rows: tuple[str, ...]
    columns: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerRouting:
    """The choice of experts in one layer, held against the reference. Gaps and margins are in router logits.

    A small flip is one that rounding explains; it and its consequences do not count. A large one is a bug.
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


@dataclass(frozen=True)
class Evidence:
    """The result of one test: identity, verdict's figures, and where a red one went wrong."""

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
    reproduce: str = ""


FINGERPRINT = "reference_fingerprint"
"""The figure that stands for Hugging Face's own answer to the inputs."""
NOT_COVERED = "not covered: "
"""How a coverage begins that says what the inputs did not reach."""


def to_property(evidence: Evidence) -> tuple[str, str]:
    """The (name, value) pair for `record_property`."""
    return PROPERTY, to_json(evidence)


def from_property(text: str) -> Evidence:
    """The Evidence of a property's value. Raises RequestError for anything that is not one."""
    return read_json(Evidence, text, what="JUnit property hub-tests")
