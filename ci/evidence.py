"""What one test of the suite leaves behind: the machine-readable result, carried as a JUnit property.

The suite writes it (`to_property`), the report reads it back as hostile input (`from_property`). Light on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ci.records import STRICT, read_json, to_json

PROPERTY = "hub-tests"
"""Name of the one JUnit property that carries an Evidence as JSON."""

Step = Literal[
    "test_download_and_truncate",
    "test_conversion",
    "test_forward_equivalence",
    "test_moe_implementation",
    "test_implementation",
    "test_hub_model_conversion",
    "test_deep",
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
    error / floor; `worst_index` where |actual - expected| is largest, with both values there.
    """

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

    @property
    def used(self) -> float:
        """Share of the tolerance that the error used: 1.0 is the limit."""
        return self.error / self.limit if self.limit else float("inf")


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
    worst: Measure | None = None
    measures: tuple[Measure, ...] = ()
    coverage: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reproduce: str = ""


def to_property(evidence: Evidence) -> tuple[str, str]:
    """The (name, value) pair for `record_property`."""
    return PROPERTY, to_json(evidence)


def from_property(text: str) -> Evidence:
    """The Evidence of a property's value. Raises RequestError for anything that is not one."""
    return read_json(Evidence, text, what="JUnit property hub-tests")
