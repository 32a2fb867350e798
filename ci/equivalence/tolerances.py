"""Every constant that decides a verdict, and the one rule that turns a noise floor into a limit.

docs/numerics.md explains each constant with its source and its evidence; tests/test_numerics.py keeps both in step.

The rule, for a tensor with the measured noise floor F in a dtype:

    error limit  = tolerance x max(F, MIN_FLOOR) x compare_factor
    token limit  = the same with the floor of the worst token, x TOKEN_SLACK

where the tolerance is FLOAT32_TOLERANCE in float32 and NATIVE_DTYPE_TOLERANCE in the dtype that the model was
published in. All errors are relative L2 norms, dimensionless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ci.subjects.base import DType
from ci.tensor_names import ROUTER_LOGITS, TOP_EXPERTS

# The tolerances.

FLOAT32_TOLERANCE = 10.0
"""Noise floors that pass in float32. Right implementations measure 1 to 1.4, the weakest injected bug 19."""
NATIVE_DTYPE_TOLERANCE = 2.0
"""Noise floors that pass in bfloat16 and float16: FlashAttention's rule, at the level of a model.

https://github.com/Dao-AILab/flash-attention/blob/main/tests/test_flash_attn.py
"""
MIN_FLOOR: dict[str, float] = {"float64": 6e-17, "float32": 3e-8, "float16": 2.0**-12, "bfloat16": 2.0**-9}
"""The least floor of a tensor: half a unit roundoff, the relative L2 error of one rounding of random values."""
TOKEN_SLACK: dict[str, float] = {"float64": 1.0, "float32": 1.0, "float16": 2.0, "bfloat16": 2.0}
"""Widens the limit of the worst token: a maximum scatters more than a mean, and a tolerance of 2 has no room."""
TOKEN_SCALE_FLOOR = 1e-2
"""A token's error is relative to its own norm, but at least to this share of the typical norm of a token."""
FLUSH_TO_ZERO: dict[str, float] = {
    "float64": 2.0**-1022,
    "float32": 2.0**-126,
    "float16": 2.0**-24,
    "bfloat16": 2.0**-126,
}
"""Values below may be flushed to zero: the smallest normal number; float16's denormals are kept everywhere."""

# When nothing can be said.

MAX_REFERENCE_NOISE = 1e-3
"""Where Hugging Face's float32 variants differ by more than this, some of them is wrong: the check is inconclusive."""
MAX_GRADIENT_NOISE = 1 / FLOAT32_TOLERANCE
"""The same for gradients: with more noise a gradient of zeros, error 1, would pass the float32 tolerance."""
TEACHER_FORCING_SHARE = 0.5
"""Where rounding flips excuse more than this share of the tokens, each block is compared on the expected input."""
INCONCLUSIVE_SHARE = 0.95
"""Where rounding flips excuse more than this share of a tensor's tokens, the tensor counts as not compared."""

# Choices of experts.

FLIP_GAP_FACTOR = 2.0
"""Two router logits may each be off by the token limit, so rounding can flip a choice over twice that gap."""

# What is compared: shares of the free memory.

FLOAT64_MEMORY_SHARE = 0.5
"""The expected trace is float64 where the float64 weights take less than this; for gradients, with the gradients."""
EAGER_MEMORY_SHARE = 0.1
"""Eager attention is a noise variant, and the expected trace's, where its (T, T) scores take less than this."""
LONG_INPUT_MEMORY_SHARE = 0.25
"""The long input is as long as its logits, activations and attention masks fit this."""

# Config sensitivity and weight perturbation.

ROPE_THETA_FACTORS = (3.1721, 0.2193)
"""Each multiplies the RoPE base: two values that no default, formula or published model gives."""
EPSILON_FACTORS = (137.21, 41.93)
"""Each multiplies a norm's epsilon."""
FLOAT_FACTORS = (1.3721, 0.7193)
"""Each multiplies any other float of a config."""
ZERO_REPLACEMENTS = (0.3719, 0.6113)
"""Each replaces a float that is zero."""
INTEGER_STEPS = (3, 7)
"""Each is added to an integer of a config, save to a number of experts a token."""
PERTURBATION = 0.1
"""Noise added to each weight, relative to its tensor's RMS: far above the noise, yet the model stays the same model."""

# What is served.

SERVED_TOLERANCE = 1.2
"""How many gaps of the original, Hugging Face to the same engine, an export passes with. Clean exports measure 1.0."""
SERVED_MIN_FLOOR: dict[str, float] = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The least gap in nats: one rounding of a log-probability in float32, of a logit of about 1 in the other dtypes."""
SERVED_TIE_FACTOR = 2.0
"""Two log-probabilities may each be off by the limit of a token, so twice that is a tie of a greedy choice."""
SERVED_LARGEST_TIE = 1.0
"""Nats between two tokens from which on no noise makes them a tie: the limit of a greedy choice is at most this."""
SERVED_OUTLIER = 8.0
"""A gap of so many medians may be a flipped choice of experts, where a router's near tie explains one."""

# Training steps.

DOCUMENT_PREDICTIONS = (64, 48, 56, 40)
"""Predicted tokens of the documents in turn: unequal, and divisible by the ranks that share a document."""
MASKED_SHARE = 0.25
"""Share of the predictions that do not count."""
CLIPPED_SHARE = 0.5
"""The gradient is clipped at this share of Hugging Face's own norm, so that clipping shows."""
SCALAR_FLOOR = 2.0**-23
"""Least floor of a loss or a norm, one unit in the last place: of a single number no noise may be measured by luck."""
AUXILIARY_LOSS = 0.1
"""Coefficient of the balancing loss of experts: its gradient is far above the noise of the whole."""

# Exact symmetries.

SYMMETRY_SPREAD = 1e-2
"""Scales that a symmetry says are equal may differ by this: what they must give together has its own limit."""

# Thin synthetic models.

SYNTHETIC_LAYERS = 12
"""Layers of the thin model that shows their order: with 10 and 11, names sorted as text are in another order."""
LONGEST_INPUT = {"cpu": 8448, "cuda": 131_200}
"""Tokens of its longest input, where the context and the memory allow. Beyond 2048 float16 rounds positions."""

# Diagnosis: what the error looks like, and where it comes from.

EXPLAINED_RESIDUAL = 0.05
"""A simple relation explains an error where it leaves less than this share of its norm."""
FEW_SHARE = 0.1
"""Channels are few where they are at most this share of all channels."""
FEW_RESIDUAL = 1e-3
"""Few channels carry an error where the others hold less than this share of its energy."""
HEAD_SHARE = 1e-6
"""A head is wrong where it holds more than this share of the error's energy."""
MOST_SHARE = 0.9
"""Nearly all tokens are wrong where more than this share of them is."""
ROUNDED_WEIGHT = 2e-2
"""A converted weight counts as rounded where each value is within this relative distance."""
CONFIG_ROUNDING = 1e-12
"""Two floats of a config are equal within this relative distance: they went through decimal text."""

# Precision lens.

FORMULA_ERROR = 1e-5
"""A formula explains an operation where it gives the expected trace's output within this relative distance."""
LENS_DEVIATIONS = 6.0
"""A precision finding is this many standard errors beyond what right implementations measure, and their margin."""
LENS_MARGIN = 0.1
"""It is also beyond what they measure by this share of it."""
LENS_LEAST: dict[str, float] = {"bfloat16": 2.0**-14, "float16": 2.0**-17}
"""Least finding, added to the limit of a relative error: a sixty-fourth of a unit roundoff."""
ROUNDING_SEEDS = 3
"""Perturbations of an operation that make the distribution of its right roundings."""
LENS_LEAST_SHARE = 0.01
"""The same for a share of values."""

# Reported beside the verdict.

RMS_EPSILON = 1e-4
"""Regularises the scale of relative figures (Fast-LLM's `CompareConfig.rms_eps`)."""
SPECIFICATION_LIMITS = {"rms_rel": 3e-3, "rms_abs": 5e-4, "max_rel": 1.5e-2, "max_abs": 5e-3}
"""The fixed thresholds of the specification (Fast-LLM's `CompareConfig`): reported, they decide nothing."""


@dataclass(frozen=True)
class NoiseFloor:
    """Hugging Face's own noise in one tensor: relative L2 error, and that of the worst token."""

    error: float = 0.0
    token_error: float = 0.0


@dataclass(frozen=True)
class Tolerances:
    """The largest errors that pass, for every tensor of one input case in one dtype.

    `untrusted` says why the floors give no verdict, where Hugging Face disagrees with itself; else it is empty.
    """

    dtype: DType
    floors: Mapping[str, NoiseFloor]
    compare_factor: float = 1.0
    untrusted: str = ""

    @property
    def factor(self) -> float:
        """How many noise floors pass."""
        exact = self.dtype in ("float32", "float64")
        return (FLOAT32_TOLERANCE if exact else NATIVE_DTYPE_TOLERANCE) * self.compare_factor

    def get_floor(self, name: str) -> NoiseFloor:
        """Return the noise floor of a tensor, at least one rounding of the dtype."""
        floor, least = self.floors.get(name, NoiseFloor()), MIN_FLOOR[self.dtype]
        return NoiseFloor(max(floor.error, least), max(floor.token_error, least))

    def get_error_limit(self, name: str) -> float:
        """Return the largest relative L2 error that passes."""
        return self.factor * self.get_floor(name).error

    def get_token_limit(self, name: str) -> float:
        """Return the largest error of a single token that passes."""
        return self.factor * TOKEN_SLACK[self.dtype] * self.get_floor(name).token_error

    def get_flip_gap_limit(self, name: str) -> float:
        """Return the largest gap over which rounding may flip a choice of experts.

        `name` is that of the choice or of its router logits; the gap is relative to the token's norm of these logits.
        """
        return FLIP_GAP_FACTOR * self.get_token_limit(name.replace(TOP_EXPERTS, ROUTER_LOGITS))
