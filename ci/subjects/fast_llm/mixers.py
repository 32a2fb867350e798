"""Fast-LLM's mixers: which one a block runs, what it computes, and what the kernel of a recurrence is given.

A stochastic mixer holds several and, outside of training, runs the main one.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ci.tensor_names import BETA, CONTEXT, DECAY, KEY, QUERY, RECURRENCE, VALUE, list_block_operations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

KERNELS = ("chunk_gated_delta_rule", "_chunk_kda")
"""The attributes by which Fast-LLM's gated delta net and Kimi delta attention call their kernel."""
ARGUMENTS = ("q", "k", "v")
"""Its first arguments, as fla names them; Fast-LLM gives some of them by position."""
OUTPUT_PROJECTIONS = ("out_proj", "o_proj")


def find_mixer_path(block: Any) -> str:
    """Return the path of the mixer that a block runs, below the block."""
    if hasattr(block.mixer, "mixers"):
        return f"mixer.mixers.{block.mixer._config.main_mixer_name}"
    return "mixer"


def find_mixer(block: Any) -> Any:
    """Return the mixer that a block runs."""
    if hasattr(block.mixer, "mixers"):
        return block.mixer.mixers[block.mixer._config.main_mixer_name]
    return block.mixer


def find_mixture(block: Any) -> Any:
    """Return the block's mixture of experts, None where it has none.

    It may be beside a dense MLP.
    """
    mlp = getattr(block.mlp, "routed", block.mlp)
    return mlp if hasattr(mlp, "_mlp_forward") else None


def list_operations(block: Any) -> tuple[str, ...]:
    """Return the operations of a block in execution order."""
    return list_block_operations(
        experts=find_mixture(block) is not None,
        branches=hasattr(block.mlp, "routed"),
        delta_rule=_find_kernel(find_mixer(block)) is not None,
    )


@contextmanager
def observe_delta_rule(mixer: Any, record: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `record` with each operation of a recurrence by the delta rule; any other mixer is left alone.

    Fast-LLM packs all rows into one: tensors are (1, B * T, heads, …), and are recorded as (B * T, heads, …).
    """
    name = _find_kernel(mixer)
    if name is None:
        yield
        return
    kernel = getattr(mixer, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        result = kernel(*args, **kwargs)
        given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        operations = {QUERY: "q", KEY: "k", VALUE: "v", DECAY: "g", BETA: "beta"}
        for operation, argument in operations.items():
            record(operation, given[argument][0])
        record(RECURRENCE, result[0][0])
        return result

    projection = next(getattr(mixer, part) for part in OUTPUT_PROJECTIONS if hasattr(mixer, part))
    hook = projection.register_forward_pre_hook(lambda _, args: record(CONTEXT, args[0]))
    setattr(mixer, name, run)
    try:
        yield
    finally:
        setattr(mixer, name, kernel)
        hook.remove()


def _find_kernel(mixer: Any) -> str | None:
    return next((name for name in KERNELS if hasattr(mixer, name)), None)
