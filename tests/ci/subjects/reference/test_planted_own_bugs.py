"""Bugs in heads, in attention both ways, in delta rules, before the decoder of a model that sees: each is located."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci import tensor_names
from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT, FINAL_NORM_WEIGHT, HEAD_WEIGHT
from ci.tensor_names import (
    BETA,
    CONTEXT,
    DECAY,
    FINAL_NORM,
    IMAGE_EMBEDDINGS,
    KEY,
    LOGITS,
    PATCHES,
    PREDICTION_BLOCK,
    PROJECTOR,
    QUERY,
    RECURRENCE,
    VISION_NORM,
    prediction_head_name,
)
from tests.ci.subjects.reference.planting import (
    PlantedBug,
    argument,
    attention,
    delay,
    delay_rows,
    exchange,
    find_first_wrong,
    find_planted,
    in_function,
    in_weights,
    result,
    weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ci.subjects.reference.model import Model
    from tests.ci.subjects.reference.conftest import ModelFactory
    from tests.ci.subjects.reference.planting import Plant

LIMIT = 1e-5
"""The largest error of a right model is below 3e-6; what a bug does is far above."""
NET, SIGMOID, MTP = "apriel2-stochastic", "apriel2-sigmoid", "mtp"
BLOCK_1, NORM_1 = (prediction_head_name(1, name) for name in (PREDICTION_BLOCK, FINAL_NORM))
HEAD_NORM = "multi_token_prediction.heads.{}.final_norm.weight"


def swap_halves(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def tile(tensor: Tensor) -> Tensor:
    """Heads of keys that are repeated as a whole: 0 1 0 1 0 1, not 0 0 0 1 1 1."""
    return tensor[:, :, ::3].repeat(1, 1, 3, 1) if tensor.shape[2] == 6 else tensor


def swap_query_key(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[16:32], tensor[:16], tensor[32:]])


def run_after_last(run: Any) -> Any:
    """Further heads read what the last block returned."""

    def wrong(self: Any, hidden: Tensor, context: Any, record: Any) -> Any:
        after = self.run_block(len(self.architecture.blocks) - 1, hidden, context, lambda *_: None)
        return run(self, after, context, record)

    return wrong


def own_matrix(run: Any) -> Any:
    """Further heads multiply by the embeddings."""

    def wrong(self: Any, *args: Any) -> Any:
        weights = {**self.weights, HEAD_WEIGHT: self.weights[EMBEDDINGS_WEIGHT]}
        return run(replace(self, weights=weights), *args)

    return wrong


def all_silu(gates: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(gates, gates["silu"])


def one_ahead(_: Any) -> Any:
    """A query attends to one token after it, not to all."""

    def wrong(self: Any, queries: range, keys: range, __: Any) -> Tensor:
        query, key = torch.arange(queries.start, queries.stop)[:, None], torch.arange(keys.start, keys.stop)
        allowed: Tensor = (key <= query + 1)[None]
        if (documents := self.documents) is not None:
            same = documents[:, queries.start : queries.stop, None] == documents[:, None, keys.start : keys.stop]
            allowed = allowed & same
        return allowed[:, None]

    return wrong


def turn_grid(located: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Lines and columns of patches are exchanged."""
    return located[0].flip(-1), located[1]


def one_line(located: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Patches are counted as if they were one line."""
    positions, numbers = located
    along = torch.arange(positions.shape[1])
    return torch.stack([torch.zeros_like(along), along], dim=-1)[None], numbers


def one_image(located: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Patches attend to those of other images."""
    return located[0], torch.zeros_like(located[1])


def channels_last(patches: Tensor) -> Tensor:
    """The values of a patch are in the order line, column, channel."""
    return patches.view(len(patches), 3, -1).transpose(1, 2).flatten(1)


def vision(change: Callable[[Any], Any]) -> Plant:
    """A bug of the vision tower's description."""

    def plant(right: Model) -> Model:
        return replace(right, architecture=replace(right.architecture, vision=change(right.architecture.vision)))

    return in_weights(plant)


def causal_tower(tower: Any) -> Any:
    blocks = tuple(replace(block, mixer=replace(block.mixer, causal=True)) for block in tower.blocks)
    return replace(tower, blocks=blocks)


SEEING = "llava"
ONES, ZEROS = torch.ones_like, torch.zeros_like
BUGS = [
    PlantedBug(NET, "the decay's sign", result("delta_mixers.compute_decay", lambda d: -d), DECAY),
    PlantedBug(NET, "no bias of the decay", weights("dt_bias", ZEROS), DECAY),
    PlantedBug(NET, "A_log is taken for A", weights("A_log", lambda a: a.exp().log1p()), DECAY),
    PlantedBug(NET, "beta and decay swapped", weights("in_proj_ba.weight", swap_halves), DECAY),
    PlantedBug(NET, "no beta", argument("delta_mixers._recur", 4, ONES), BETA),
    PlantedBug(NET, "beta without a sigmoid", argument("delta_mixers._recur", 4, torch.logit), BETA),
    PlantedBug(NET, "beta not in the rule", argument("delta_mixers.run_delta_rule", 4, ONES), RECURRENCE),
    PlantedBug(NET, "no decay in the rule", argument("delta_mixers.run_delta_rule", 3, ZEROS), RECURRENCE),
    PlantedBug(NET, "no unit length", in_function("delta_rule.normalize_length", lambda _: lambda t: t), RECURRENCE),
    PlantedBug(NET, "no scale of queries", result("delta_mixers.run_delta_rule", lambda t: t * 8**0.5), RECURRENCE),
    PlantedBug(NET, "the state before the token", result("delta_mixers.run_delta_rule", delay), RECURRENCE),
    PlantedBug(
        NET,
        "the state is not reset",
        in_function("delta_rule.find_document_starts", lambda find: lambda _, like: find(None, like)),
        RECURRENCE,
    ),
    PlantedBug(NET, "the convolution is one off", result("delta_mixers.convolve_causally", delay), QUERY),
    PlantedBug(NET, "the taps reversed", weights("convolution.weight", lambda w: w.flip(-1)), QUERY),
    PlantedBug(
        NET,
        "the convolution reads other documents",
        in_function("delta_rule.shift_tokens", lambda shift: lambda tensor, _, back: shift(tensor, None, back)),
        QUERY,
    ),
    PlantedBug(NET, "no activation after it", in_function("delta_mixers.silu", lambda _: lambda t: t), QUERY),
    PlantedBug(NET, "heads repeated as a whole", argument("delta_mixers._recur", 0, tile), QUERY),
    PlantedBug(NET, "heads of keys repeated as a whole", argument("delta_mixers._recur", 1, tile), KEY),
    PlantedBug(NET, "query and key swapped", weights("in_proj_qkvz.weight", swap_query_key), QUERY),
    PlantedBug(NET, "no gate", argument("delta_mixers.normalize_gated", 1, lambda g: g * 0 + 1.278), CONTEXT),
    PlantedBug(NET, "no weight in the gated norm", weights("gdn.norm.weight", ONES), CONTEXT),
    PlantedBug(NET, "another mixer runs", argument("config.StochasticMixer.choose", 1, lambda _: "kda"), QUERY),
    PlantedBug(SIGMOID, "a gate of silu", in_function("delta_rule.GATES", all_silu), CONTEXT),
    PlantedBug(SIGMOID, "the gates swapped", exchange(".f_", ".g_"), DECAY),
    PlantedBug(
        SIGMOID,
        "one decay a head",
        result("delta_mixers.compute_decay", lambda d: d.mean(-1, keepdim=True).expand_as(d)),
        DECAY,
    ),
    PlantedBug(SIGMOID, "the decay's sign", result("delta_mixers.compute_decay", lambda d: -d), DECAY),
    PlantedBug(SIGMOID, "the query's convolution for keys", exchange("k_conv", "q_conv", both=False), KEY),
    PlantedBug(SIGMOID, "beta of another head", weights("beta_proj.weight", lambda w: w.flip(0)), BETA),
    PlantedBug(MTP, "head 1 has the main norm", exchange(HEAD_NORM.format(0), FINAL_NORM_WEIGHT, both=False), NORM_1),
    PlantedBug(
        MTP, "the main head has norm 1", exchange(FINAL_NORM_WEIGHT, HEAD_NORM.format(0), both=False), FINAL_NORM
    ),
    PlantedBug(MTP, "norms of heads swapped", exchange("prediction.heads.0", "prediction.heads.1"), NORM_1),
    PlantedBug(MTP, "blocks of heads swapped", exchange("prediction.blocks.0", "prediction.blocks.1"), BLOCK_1),
    PlantedBug(
        MTP, "heads after the last block", in_function("model.Model.run_prediction_heads", run_after_last), BLOCK_1
    ),
    PlantedBug(
        MTP,
        "heads with the embeddings",
        in_function("model.Model.run_prediction_heads", own_matrix),
        prediction_head_name(1, LOGITS),
    ),
    PlantedBug("dream", "causal", attention(causal=True), CONTEXT),
    PlantedBug("diffusion", "causal", attention(causal=True), CONTEXT),
    PlantedBug("dream", "one token ahead", in_function("attention.AttentionMask.to_matrix", one_ahead), CONTEXT),
    PlantedBug(
        "dream",
        "padding is attended to",
        in_function("model.AttentionMask", lambda mask: lambda _, *rest: mask(None, *rest)),
        CONTEXT,
    ),
    PlantedBug(SEEING, "axes of RoPE swapped", result("model.locate_patches", turn_grid), QUERY),
    PlantedBug(SEEING, "RoPE along one line", result("model.locate_patches", one_line), QUERY),
    PlantedBug(SEEING, "images attend to each other", result("model.locate_patches", one_image), CONTEXT),
    PlantedBug(SEEING, "a causal tower", vision(causal_tower), CONTEXT),
    PlantedBug(SEEING, "channels last in a patch", result("model.cut_patches", channels_last), PATCHES),
    PlantedBug(SEEING, "patches in another order", result("model.cut_patches", lambda p: p.flip(0)), PATCHES),
    PlantedBug(SEEING, "features one token late", argument("model.place_features", 3, delay_rows), IMAGE_EMBEDDINGS),
    PlantedBug(SEEING, "no features", argument("model.place_features", 3, ZEROS), IMAGE_EMBEDDINGS),
    PlantedBug(SEEING, "the projector's gelu by tanh", vision(lambda v: replace(v, projector="gelu")), PROJECTOR),
    PlantedBug(SEEING, "no bias of the projector", weights("adapter.layer_1.bias", ZEROS), PROJECTOR),
    PlantedBug(SEEING, "no weight in the patches' norm", weights("embeddings.normalization.weight", ONES), VISION_NORM),
    PlantedBug(
        SEEING, "the tower's norms swapped", exchange("encoder.0.norm_1", "encoder.0.norm_2"), tensor_names.NORM_1
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_shows_first_where_it_is(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: PlantedBug
) -> None:
    assert find_planted(factory, bug, tmp_path / "trace", monkeypatch, LIMIT) == bug.operation


@pytest.mark.parametrize("case", sorted({bug.case for bug in BUGS}))
def test_nothing_is_wrong_without_a_bug(factory: ModelFactory, tmp_path: Path, case: str) -> None:
    assert find_first_wrong(factory, case, tmp_path / "trace", LIMIT) == ""
