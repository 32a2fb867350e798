"""Slices of a model: the first V rows of the vocabulary and the first E experts. Pure.

Both are the outermost dimension of their tensors, so a slice is the beginning of a tensor's bytes: a shorter range of
the same file. A sliced model is a smaller model of the same type, with the upstream one's weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ci.errors import NotTruncatableError, RequestError
from ci.hub.config_edit import Edit, KeyPath, Node, Replace, find_node
from ci.hub.config_numbers import MAX_EXPERTS, MAX_SIZE, read_count, read_optional_count
from ci.hub.header import count_tensor_bytes
from ci.hub.truncation_rules import OTHER_MODALITY
from ci.records import STRICT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.hub.header import TensorInfo
    from ci.hub.model_config import ModelConfig

VOCABULARY_FIELDS = ("vocab_size", "padded_vocab_size")
EXPERT_COUNT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "ffn_num_experts")
"""Fields that hold the number of routed experts of each layer."""
EXPERTS_PER_TOKEN_FIELDS = (
    *("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_top_k", "moe_topk"),
    *("moe_k", "num_selected_experts"),
)
"""Fields that hold how many experts a token is sent to: at most E."""
TOKEN_ID_FIELD = re.compile(r"(?:^|_)token_ids?$|(?:^|_)token_index$|^(?:bad_words_ids|suppress_tokens)$")
SPECIAL_TOKEN_FIELD = re.compile(
    r"^(?:bos|eos|pad|sep|cls|unk|mask|decoder_start|forced_bos|forced_eos)_token_ids?$|^(?:bad_words_ids|suppress_tokens)$"
)
"""Ids that no forward pass reads: those beyond the slice are dropped."""
VOCABULARY_TENSOR = re.compile(
    r"(?:^|\.)(?:embed_tokens|tok_embeddings|word_embeddings|word_embedding|wte|embed_in|embed_out|embeddings?|shared"
    r"|lm_head|output|output_layer|unembed|predictions\.decoder|decoder)\.(?:weight|bias)$|(?:^|\.)final_logits_bias$"
    r"|(?:^|\.)(?:lm_head|predictions)\.(?:decoder\.)?bias$"
)
"""Tensors with one row for each token of the vocabulary."""
ONE_EXPERT = re.compile(r"(?:^|\.)(?<!shared_)experts\.(?:expert_)?(\d{1,6})\.")
"""A tensor of one expert, with its index."""
ALL_EXPERTS = re.compile(r"(?:^|\.)(?:experts|(?:input|output)_linear)(?:\.|$)")
"""A tensor that holds all experts of a layer."""
ROUTER = re.compile(
    r"(?:^|\.)(?:gate|router|gate_proj_router|classifier)(?:\.(?:wg|layer|weight|bias|linear|classifier|proj)){0,2}"
    r"(?:\.(?:weight|bias|e_score_correction_bias|per_expert_scale))?$"
    r"|(?:^|\.)(?:e_score_correction_bias|expert_bias|per_expert_scale|moe_statics\.e_score_correction_bias)$"
)
"""A tensor with one row for each expert of a layer, or one value."""
EXPERT_WORDS = re.compile(r"(?:^|[._])(?:experts?|router|moe)(?=[._]|$)")


@dataclass(frozen=True)
class Slice:
    """How many rows of the vocabulary and how many experts of each layer are kept; None for all of them."""

    __pydantic_config__: ClassVar[Any] = STRICT

    vocab: int | None = None
    experts: int | None = None

    def __str__(self) -> str:
        """Return the words of `parse_slice`."""
        return ",".join(
            f"{name}={value}" for name, value in (("vocab", self.vocab), ("experts", self.experts)) if value
        )


WHOLE = Slice()


def parse_slice(text: str) -> Slice:
    """Read `vocab=4096,experts=4`, or one of them. Raises RequestError for anything else."""
    values: dict[str, int] = {}
    for word in text.split(","):
        name, _, number = word.strip().partition("=")
        if name not in ("vocab", "experts") or name in values or not re.fullmatch(r"[1-9]\d{0,8}", number):
            raise RequestError(f"--slice {text}: expected vocab=V, experts=E or both, like vocab=4096,experts=4")
        values[name] = int(number)
    return Slice(**values)


@dataclass(frozen=True)
class SliceRules:
    """What a slice means for one model. `vocabulary` and `experts` are the whole model's; 0 experts for a dense one."""

    slice: Slice
    vocabulary: int
    experts: int
    what: str

    def cut(self, name: str, tensor: TensorInfo, *, in_layer: bool) -> TensorInfo | None:
        """Return the tensor with the rows that are kept; None where it belongs to a dropped expert.

        Raises NotTruncatableError for a tensor of which the rows cannot be told, or are not the outermost dimension.
        """
        if not in_layer and self.slice.vocab is not None and not OTHER_MODALITY.search(name):
            return self._cut_vocabulary(name, tensor, self.slice.vocab)
        if in_layer and self.slice.experts is not None:
            if not self.experts and (ONE_EXPERT.search(name) or ALL_EXPERTS.search(name)):
                raise self._refuse(name, tensor)
            return self._cut_experts(name, tensor, self.slice.experts) if self.experts else tensor
        return tensor

    def _cut_vocabulary(self, name: str, tensor: TensorInfo, rows: int) -> TensorInfo:
        outermost = _find_outermost(tensor.shape)
        if VOCABULARY_TENSOR.search(name) and tensor.shape and tensor.shape[outermost] >= self.vocabulary:
            return _keep_rows(tensor, outermost, rows, self._refuse(name, tensor))
        if self.vocabulary in tensor.shape and not _is_of_positions(name):
            raise self._refuse(name, tensor)
        return tensor

    def _cut_experts(self, name: str, tensor: TensorInfo, experts: int) -> TensorInfo | None:
        if match := ONE_EXPERT.search(name):
            return tensor if int(match[1]) < experts else None
        outermost = _find_outermost(tensor.shape)
        if "shared_expert" not in name and (ALL_EXPERTS.search(name) or ROUTER.search(name)):
            size = tensor.shape[outermost] if tensor.shape else 0
            if size and size % self.experts == 0 and (size == self.experts or ALL_EXPERTS.search(name)):
                return _keep_rows(tensor, outermost, size // self.experts * experts, self._refuse(name, tensor))
        if "shared_expert" not in name and EXPERT_WORDS.search(name) and self.experts in tensor.shape:
            raise self._refuse(name, tensor)
        return tensor

    def _refuse(self, name: str, tensor: TensorInfo) -> NotTruncatableError:
        return NotTruncatableError(
            f"{self.what}: hub-tests cannot slice this yet: {name[:200]} {list(tensor.shape)} may depend on the "
            f"{self.vocabulary} tokens or {self.experts} experts; fetch the model without a slice"
        )


def make_slice_rules(config: ModelConfig, wanted: Slice) -> SliceRules:
    """Check a slice against a model's config.

    Raises RequestError for more rows or experts than there are, or fewer than one token needs.
    """
    experts = _read_experts(config) if wanted.experts is not None else 0
    vocabulary = _read_vocabulary(config) if wanted.vocab is not None else 0
    for name, part, whole in (("vocab", wanted.vocab, vocabulary), ("experts", wanted.experts, experts)):
        if part is not None and whole and not 1 <= part <= whole:
            raise RequestError(f"{config.what}: slice {name} = {part}, the model has {whole}; ask for 1 to {whole}")
    return SliceRules(wanted, vocabulary, experts, config.what)


def list_slice_edits(config: ModelConfig, wanted: Slice) -> list[Edit]:
    """List the edits of config.json for a slice: sizes, experts for each token, groups, special tokens.

    Raises RequestError where a token that the model needs is not among the rows that are kept.
    """
    edits: list[Edit] = []
    if wanted.vocab is not None:
        for path in _list_objects(config):
            edits += _list_vocabulary_edits(find_node(config.root, path), path, wanted.vocab, config.what)
    if wanted.experts is not None and _read_experts(config):
        for path in config.text_configs:
            edits += _list_expert_edits(find_node(config.root, path), path, wanted.experts, config.what)
    return edits


def list_slice_notes(config: ModelConfig, wanted: Slice) -> list[str]:
    """List lines for people: which part of the model is kept, and which special tokens are not."""
    notes = []
    rules = make_slice_rules(config, wanted)
    if wanted.vocab is not None:
        notes.append(f"sliced: the first {wanted.vocab} of {rules.vocabulary} rows of the vocabulary are kept")
    if wanted.experts is not None and rules.experts:
        notes.append(f"sliced: the first {wanted.experts} of {rules.experts} experts of each layer are kept")
    dropped = sorted(
        {".".join(e.path) for e in list_slice_edits(config, wanted) if SPECIAL_TOKEN_FIELD.search(e.path[-1])}
    )
    if dropped:
        notes.append(f"sliced: ids of special tokens beyond the kept rows were dropped from {', '.join(dropped)}")
    return notes


def drop_token_ids(value: Any, vocabulary: int) -> Any:
    """Return special token ids without those that are not below `vocabulary`; None where none is left."""
    if isinstance(value, list):
        kept = [item for item in value if drop_token_ids(item, vocabulary) is not None]
        return kept or None
    return None if type(value) is int and value >= vocabulary else value


def slice_generation_config(values: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """Return a generation_config.json without token ids that are not below `vocabulary`."""
    dropped = {key: drop_token_ids(value, vocabulary) for key, value in values.items() if TOKEN_ID_FIELD.search(key)}
    return {**{key: value for key, value in values.items() if key not in dropped}, **_without_none(dropped)}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _list_objects(config: ModelConfig) -> list[KeyPath]:
    """List the objects that may name the vocabulary: the whole config and the text model's."""
    return list(dict.fromkeys(((), *config.text_configs)))


def _list_vocabulary_edits(node: Node, path: KeyPath, rows: int, what: str) -> Iterator[Edit]:
    for key, value in node.value.items():
        if key in VOCABULARY_FIELDS and type(value) is int:
            yield Replace((*path, key), rows)
        elif TOKEN_ID_FIELD.search(key) and drop_token_ids(value, rows) != value:
            if not SPECIAL_TOKEN_FIELD.search(key):
                raise RequestError(f"{what}: slice vocab = {rows} leaves out {key} = {str(value)[:50]}; keep more rows")
            yield Replace((*path, key), drop_token_ids(value, rows))


def _list_expert_edits(node: Node, path: KeyPath, experts: int, what: str) -> Iterator[Edit]:
    values = node.value
    total = next(
        read_count(values, key, what=what, limit=MAX_EXPERTS) for key in EXPERT_COUNT_FIELDS if values.get(key)
    )
    per_token = 0
    for key, value in values.items():
        if key in EXPERT_COUNT_FIELDS and value is not None:
            yield Replace((*path, key), experts)
        elif key in EXPERTS_PER_TOKEN_FIELDS and value is not None:
            per_token = min(read_count(values, key, what=what, limit=MAX_EXPERTS), experts)
            yield Replace((*path, key), per_token)
    groups = read_optional_count(values, "n_group", what=what, limit=MAX_EXPERTS) or 1
    if groups > 1:
        size = total // groups
        left = experts // size if experts % size == 0 else 1
        chosen = min(read_optional_count(values, "topk_group", what=what, limit=MAX_EXPERTS) or 1, left)
        if per_token > chosen * (experts // left):
            raise RequestError(f"{what}: slice experts = {experts} leaves too few experts in {chosen} of {left} groups")
        yield Replace((*path, "n_group"), left)
        if "topk_group" in values:
            yield Replace((*path, "topk_group"), chosen)


def _read_vocabulary(config: ModelConfig) -> int:
    for path in (*config.text_configs[::-1], ()):
        values = find_node(config.root, path).value
        if values.get("vocab_size") is not None:
            return read_count(values, "vocab_size", what=config.what, limit=MAX_SIZE)
    raise NotTruncatableError(f"{config.what}: hub-tests cannot slice this yet: no vocab_size beside the layers' count")


def _read_experts(config: ModelConfig) -> int:
    """Return the experts of each layer, 0 for a dense model. Raises NotTruncatableError for several counts."""
    values = find_node(config.root, config.text_configs[-1]).value
    named = {key: values[key] for key in EXPERT_COUNT_FIELDS if values.get(key)}
    if any(isinstance(value, list) for value in named.values()) or len(set(map(str, named.values()))) > 1:
        raise NotTruncatableError(
            f"{config.what}: hub-tests cannot slice this yet: several counts of experts: {named}"[:300]
        )
    if values.get("num_hash_layers") or "hash_moe" in (values.get("mlp_layer_types") or ()):
        raise NotTruncatableError(f"{config.what}: hub-tests cannot slice this yet: tables name experts by token id")
    return read_count(values, next(iter(named)), what=config.what, limit=MAX_EXPERTS) if named else 0


def _find_outermost(shape: tuple[int, ...]) -> int:
    """Return the first dimension that is longer than 1: its rows follow each other in the file."""
    return next((i for i, size in enumerate(shape) if size > 1), 0)


def _keep_rows(tensor: TensorInfo, axis: int, rows: int, refusal: NotTruncatableError) -> TensorInfo:
    shape = (*tensor.shape[:axis], min(rows, tensor.shape[axis]), *tensor.shape[axis + 1 :])
    size = count_tensor_bytes(tensor.dtype, shape)
    if size is None:
        raise refusal
    return replace(tensor, shape=shape, end=tensor.begin + size)


def _is_of_positions(name: str) -> bool:
    return bool(re.search(r"(?:^|[._])(?:position|wpe|pos|norm|rotary)", name))
