"""From the first tensor that leaves its floor and the shape of its error to one sentence that names a suspect. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.equivalence.walk import TOP_EXPERTS, layer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.equivalence.signatures import Signature
    from ci.evidence import Measure

OPERATIONS = {
    "embeddings": "token embeddings",
    "norm_1": "norm before attention",
    "mixer.query": "query",
    "mixer.key": "key",
    "mixer.value": "value",
    "mixer.context": "attention",
    "mixer": "attention output projection",
    "mixer_residual": "residual after attention",
    "norm_2": "norm before the MLP",
    "mlp.router_logits": "router",
    TOP_EXPERTS: "choice of experts",
    "mlp.router_scores": "router scores",
    "mlp": "MLP",
    "": "residual after the MLP",
    "final_norm": "final norm",
    "logits": "output head",
}
"""Plain names of the captured operations; the empty one is a block's output."""


@dataclass(frozen=True)
class Place:
    """Where: the tensor, its block (None outside the blocks) and the plain name of its operation."""

    tensor: str
    layer: int | None
    operation: str

    def __str__(self) -> str:
        return self.operation if self.layer is None else f"layer {self.layer}, {self.operation}"


@dataclass(frozen=True)
class Diagnosis:
    """The parts of the sentence. `times` is the error in noise floors, `others` further places that are wrong alone."""

    place: Place
    suspect: str
    times: float
    half: str = ""
    because: str = ""
    others: tuple[Place, ...] = ()

    def __str__(self) -> str:
        half = f" [{self.half}]" if self.half else ""
        because = f"; {self.because}" if self.because else ""
        more = f"; also wrong on right input: {_grouped(self.others)}" if self.others else ""
        off = f"; {self.place.tensor} is {self.times:.3g} noise floors off" if math.isfinite(self.times) else ""
        return f"{self.place}{half}: {self.suspect}{off}{because}{more}"


def _grouped(places: Sequence[Place]) -> str:
    """`query in layers 1, 2, 3; final norm`."""
    layers: dict[str, list[int]] = {}
    for place in places:
        layers.setdefault(place.operation, []).extend([] if place.layer is None else [place.layer])
    return ", ".join(f"{name} in layer {_list(found)}" if found else name for name, found in layers.items())


def place_of(tensor: str) -> Place:
    """The place of a captured tensor."""
    layer = layer_of(tensor)
    operation = tensor if layer is None else tensor.removeprefix(f"decoder.{layer}").removeprefix(".")
    return Place(tensor, layer, OPERATIONS.get(operation, operation))


def first_in_each_block(fed: Sequence[Measure]) -> list[Measure]:
    """The first failing tensor of each block that was fed the reference's input: each is a fault of its own."""
    found: dict[int | str | None, Measure] = {}
    for measure in fed:
        if not measure.passed:
            layer = layer_of(measure.tensor)
            found.setdefault(
                layer if layer is not None else ("head" if measure.tensor != "embeddings" else ""), measure
            )
    return list(found.values())


def growth(measures: Sequence[Measure]) -> str:
    """The curve of error over floor by block output: a jump is a fault, a slow rise is noise."""
    blocks = [m for m in measures if "." not in m.tensor.removeprefix("decoder.")]
    step = max(1, len(blocks) // 12)
    return "error over floor by layer: " + " ".join(f"{m.ratio or 0:.2g}" for m in blocks[::step])


def suspect(place: Place, found: Signature, *, only_low_precision: str = "") -> str:
    """What most likely went wrong at a place, from the shape of its error."""
    if only_low_precision:
        return f"wrong in {only_low_precision} only: the order of casts, or an accumulation in {only_low_precision}"
    operation = place.tensor if place.layer is None else place.tensor.removeprefix(f"decoder.{place.layer}").lstrip(".")
    if found.same_as:
        return f"it equals the reference's {found.same_as}: two tensors were swapped or one was loaded twice"
    by_operation = {
        "norm_1": _norm,
        "norm_2": _norm,
        "final_norm": _norm,
        "mixer.query": _rotated,
        "mixer.key": _rotated,
        "mixer.value": _projection,
        "mixer.context": _attention,
        "mixer": _projection,
        "mlp": _mlp,
        "mlp.router_logits": _router,
        TOP_EXPERTS: _choice,
        "mlp.router_scores": _scores,
        "embeddings": _embeddings,
        "logits": _head,
    }
    return by_operation.get(operation, _general)(found)


def _norm(found: Signature) -> str:
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: a constant factor on the norm"
    if found.token_scale:
        return "each token is scaled by its own factor: the norm's epsilon, or what it averages over"
    if found.channel_scale:
        return "each channel is scaled by its own factor: the norm's weight (another norm's, skipped, or 1 + weight)"
    return _general(found)


def _rotated(found: Signature) -> str:
    if found.first_wrong > 0:
        return "exact at position 0 and wrong after it: RoPE (base, scaling, or position numbering)"
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: RoPE's attention factor or a scale folded into the projection"
    if found.reordered:
        return "the right values in another order at position 0: row order of the projection (RoPE layout or heads)"
    return _projection(found)


def _projection(found: Signature) -> str:
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: a constant factor"
    if found.offset:
        return "off by the same vector for every token: the projection's bias"
    if found.reordered:
        return "the right values in another order: row order of the projection or heads"
    if found.heads:
        return f"only heads {_list(found.heads)}: the rows of these heads"
    return _channels(found) or "the projection's weight"


def _attention(found: Signature) -> str:
    if found.padded_only:
        return "only documents behind padding: the padding mask or document boundaries"
    if found.beyond_window:
        return f"exact up to position {found.first_wrong - 1}, wrong beyond the window: the sliding window"
    if found.first_wrong > 1:
        return f"exact up to position {found.first_wrong - 1}: a sliding window of another length, or none"
    if found.first_wrong == 1:
        return "exact at position 0 where only one key is seen: the softmax's scale, or the causal mask"
    if found.reordered:
        return "the right values in another order: which key-value head serves which query head"
    return "wrong from position 0 on right queries, keys and values: key-value head grouping, or the mask"


def _mlp(found: Signature) -> str:
    if found.experts:
        return f"only tokens of expert {_list(found.experts)}: that expert's weights or place"
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: a constant factor"
    if found.token_scale:
        return "each token is scaled by its own factor: how the experts' answers are weighted"
    if found.offset:
        return "off by the same vector for every token: the down projection's bias"
    return _channels(found) or "gate, up or down projection, or the activation"


def _router(found: Signature) -> str:
    if found.reordered:
        return "the right logits in another order: experts are numbered differently"
    if found.channels:
        return f"only expert {_list(found.channels)}: the router's rows"
    return _projection(found)


def _choice(_: Signature) -> str:
    return "other experts on right router logits: how the top k is taken (k, order, groups, or a bias on the choice)"


def _scores(found: Signature) -> str:
    if found.scale is not None or found.token_scale:
        return "each token's scores are scaled: normalisation over the top k (norm_topk_prob), or a routing factor"
    return "weights of right choices are wrong: softmax before or after the choice"


def _embeddings(found: Signature) -> str:
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: the embedding's scale"
    return _channels(found) or "rows of the embedding table, or token ids shifted"


def _head(found: Signature) -> str:
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: the logits' scale"
    if found.channels:
        return f"only vocabulary columns {_list(found.channels)}: padding or rows of the head"
    if found.reordered:
        return "the right logits in another order: rows of the head"
    return "the head's weight: tying, or a cap on the logits"


def _general(found: Signature) -> str:
    if found.scale is not None:
        return f"scaled by {found.scale:.6g}: a constant factor"
    if found.offset:
        return "off by the same vector for every token"
    return _channels(found) or "no simple relation to the right answer"


def _channels(found: Signature) -> str:
    return f"only channels {_list(found.channels)}" if found.channels else ""


def _list(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:6]))
    return f"{shown}, … ({len(numbers)})" if len(numbers) > 6 else shown
