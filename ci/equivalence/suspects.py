"""Names what most likely went wrong in a tensor, from the shape of its error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.tensor_names import (
    CONTEXT,
    EMBEDDINGS,
    FINAL_NORM,
    IMAGE_EMBEDDINGS,
    KEY,
    LOGITS,
    MIXER,
    MLP,
    NORM_1,
    NORM_2,
    PATCHES,
    PROJECTOR,
    QUERY,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    VALUE,
    VISION_NORM,
    is_vision,
    operation_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci.equivalence.error_signature import ErrorSignature


def describe_suspect(tensor: str, signature: ErrorSignature, *, only_low_precision: str = "") -> str:
    """Say what most likely went wrong in a tensor, from the shape of its error.

    `only_low_precision` is the dtype where the same checkpoint is right in float32, else empty.
    """
    if only_low_precision:
        return f"wrong in {only_low_precision} only: the order of casts, or an accumulation in {only_low_precision}"
    if signature.same_as:
        return f"it equals the reference's {signature.same_as}: two tensors were swapped or one was loaded twice"
    known = _SUSPECTS | _VISION_SUSPECTS if is_vision(tensor) else _SUSPECTS
    return known.get(operation_of(tensor), _suspect_anything)(signature)


def _suspect_norm(signature: ErrorSignature) -> str:
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: a constant factor on the norm"
    if signature.token_scale:
        return "each token is scaled by its own factor: the norm's epsilon, or what it averages over"
    if signature.channel_scale:
        return "each channel is scaled by its own factor: the norm's weight (another norm's, skipped, or 1 + weight)"
    return _suspect_anything(signature)


def _suspect_rope(signature: ErrorSignature) -> str:
    if signature.later_documents:
        return (
            "right in the first row, wrong from the first token of later documents: position numbering, which restarts"
        )
    if signature.first_wrong > 0:
        return "exact at position 0 and wrong after it: RoPE (base, scaling, or position numbering)"
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: RoPE's attention factor or a scale folded into the projection"
    if signature.reordered:
        return "the right values in another order at position 0: row order of the projection (RoPE layout or heads)"
    return _suspect_projection(signature)


def _suspect_projection(signature: ErrorSignature) -> str:
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: a constant factor"
    if signature.offset:
        return "off by the same vector for every token: the projection's bias"
    if signature.reordered:
        return "the right values in another order: row order of the projection or heads"
    if signature.heads:
        return f"only heads {join_numbers(signature.heads)}: the rows of these heads"
    return _describe_channels(signature) or "the projection's weight"


def _suspect_mixer(signature: ErrorSignature) -> str:
    return _DOCUMENTS if signature.later_documents else _suspect_projection(signature)


def _suspect_attention(signature: ErrorSignature) -> str:
    if signature.only_last_right:
        return "right at each row's last position only, which sees all others: causal, Hugging Face looks both ways"
    if signature.later_documents:
        return _DOCUMENTS
    if signature.padded_only:
        return "only documents behind padding: the padding mask or document boundaries"
    if signature.beyond_window:
        return f"exact up to position {signature.first_wrong - 1}, wrong beyond the window: the sliding window"
    if signature.first_wrong > 1:
        return f"exact up to position {signature.first_wrong - 1}: a sliding window of another length, or none"
    if signature.first_wrong == 1:
        return "exact at position 0 where only one key is seen: the softmax's scale, or the causal mask"
    if signature.reordered:
        return "the right values in another order: which key-value head serves which query head"
    return "wrong from position 0 on right queries, keys and values: key-value head grouping, or the mask"


def _suspect_mlp(signature: ErrorSignature) -> str:
    if signature.experts:
        return f"only tokens of expert {join_numbers(signature.experts)}: that expert's weights or place"
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: a constant factor"
    if signature.token_scale:
        return "each token is scaled by its own factor: how the experts' answers are weighted"
    if signature.offset:
        return "off by the same vector for every token: the down projection's bias"
    return _describe_channels(signature) or "gate, up or down projection, or the activation"


def _suspect_router(signature: ErrorSignature) -> str:
    if signature.reordered:
        return "the right logits in another order: experts are numbered differently"
    if signature.channels:
        return f"only expert {join_numbers(signature.channels)}: the router's rows"
    return _suspect_projection(signature)


def _suspect_top_k(_: ErrorSignature) -> str:
    return "other experts on right router logits: how the top k is taken (k, order, groups, or a bias on the choice)"


def _suspect_scores(signature: ErrorSignature) -> str:
    if signature.scale is not None or signature.token_scale:
        return "each token's scores are scaled: normalisation over the top k (norm_topk_prob), or a routing factor"
    return "weights of right choices are wrong: softmax before or after the choice"


def _suspect_embeddings(signature: ErrorSignature) -> str:
    if signature.only_images:
        return "only tokens of images: the vision tower or its projector (weights, norms, activation, 2-D RoPE)"
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: the embedding's scale"
    return _describe_channels(signature) or "rows of the embedding table, or token ids shifted"


def _suspect_head(signature: ErrorSignature) -> str:
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: the logits' scale"
    if signature.channels:
        return f"only vocabulary columns {join_numbers(signature.channels)}: padding or rows of the head"
    if signature.reordered:
        return "the right logits in another order: rows of the head"
    return "the head's weight: tying, or a cap on the logits"


def _suspect_anything(signature: ErrorSignature) -> str:
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: a constant factor"
    if signature.offset:
        return "off by the same vector for every token"
    return _describe_channels(signature) or "no simple relation to the right answer"


def _describe_channels(signature: ErrorSignature) -> str:
    return f"only channels {join_numbers(signature.channels)}" if signature.channels else ""


def _suspect_patches(signature: ErrorSignature) -> str:
    if signature.first_wrong > 0:
        return "right for each image's first patch only: the order of the patches (line by line), or their size"
    if signature.later_documents:
        return "right for the first image only: where one image ends and the next one begins"
    if signature.scale is not None or signature.channels:
        return _suspect_projection(signature)
    return "the patches' projection: its weight, or the order of a patch's values (channel, line, column)"


def _suspect_axial_rope(signature: ErrorSignature) -> str:
    if signature.first_wrong > 0:
        return "exact at each image's first patch, wrong after it: 2-D RoPE (base, or the positions' lines and columns)"
    if signature.later_documents:
        return "right in the first image, wrong from the first patch of later ones: positions, which restart"
    return _suspect_projection(signature)


def _suspect_image_attention(signature: ErrorSignature) -> str:
    if signature.only_last_right:
        return "right at each image's last patch only, which sees all others: causal, and a tower looks both ways"
    if signature.reordered:
        return "the right values in another order: heads"
    return "wrong on right queries, keys and values: which patches attend to each other (those of one image), or scale"


def _suspect_projector(signature: ErrorSignature) -> str:
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: a constant factor on the features"
    if signature.offset:
        return "off by the same vector for every patch: the projector's second bias"
    return _describe_channels(signature) or "the projector's weights, its first bias, or its activation"


def _suspect_placing(signature: ErrorSignature) -> str:
    if signature.scale is not None:
        return f"scaled by {signature.scale:.6g}: a scale on the embeddings, which features do not have"
    return "not the projector's output at these tokens: which tokens stand for images, or the order of the features"


def join_numbers(numbers: Sequence[int]) -> str:
    """Join the first six numbers, and say how many there are where that is not all."""
    shown = ", ".join(map(str, numbers[:6]))
    return f"{shown}, … ({len(numbers)})" if len(numbers) > 6 else shown


_DOCUMENTS = (
    "right in the first row, wrong from the first token of later documents, which sees only itself: "
    "document boundaries, so the document mask (tokens attend to another document or to padding)"
)
_SUSPECTS: dict[str, Callable[[ErrorSignature], str]] = {
    NORM_1: _suspect_norm,
    NORM_2: _suspect_norm,
    FINAL_NORM: _suspect_norm,
    QUERY: _suspect_rope,
    KEY: _suspect_rope,
    VALUE: _suspect_projection,
    CONTEXT: _suspect_attention,
    MIXER: _suspect_mixer,
    MLP: _suspect_mlp,
    ROUTER_LOGITS: _suspect_router,
    TOP_EXPERTS: _suspect_top_k,
    ROUTER_SCORES: _suspect_scores,
    EMBEDDINGS: _suspect_embeddings,
    LOGITS: _suspect_head,
}
_VISION_SUSPECTS: dict[str, Callable[[ErrorSignature], str]] = {
    PATCHES: _suspect_patches,
    VISION_NORM: _suspect_norm,
    QUERY: _suspect_axial_rope,
    KEY: _suspect_axial_rope,
    CONTEXT: _suspect_image_attention,
    MIXER: _suspect_projection,
    PROJECTOR: _suspect_projector,
    IMAGE_EMBEDDINGS: _suspect_placing,
}
