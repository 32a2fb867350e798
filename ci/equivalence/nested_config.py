"""Reads a config.json whose blocks are nested below `decoder`, as Fast-LLM's apriel2 writes it.

`decoder` has one `block` (type fixed), or `blocks` by name and a `pattern` that repeats (type pattern). A block's mixer
may be stochastic: several by name, of which the main one runs outside of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Config = Mapping[str, Any]

THIN_HEADS, THIN_INTERMEDIATE, THIN_HIDDEN = 2, 192, 128
"""Sizes of a thin model of nested blocks; the size of a head stays."""


def is_nested(config: Config) -> bool:
    """Return whether the config describes nested blocks."""
    decoder = config.get("decoder")
    return isinstance(decoder, Mapping) and ("block" in decoder or "blocks" in decoder)


def list_blocks(config: Config) -> tuple[Config, ...]:
    """Return the description of each kind of block."""
    decoder = config["decoder"]
    return tuple(decoder["blocks"].values()) if "blocks" in decoder else (decoder["block"],)


def list_mixers(config: Config) -> Iterator[Config]:
    """Yield every mixer of every kind of block, those of a stochastic one each."""
    for block in list_blocks(config):
        mixer = block.get("mixer", {})
        yield from mixer.get("mixers", {"": mixer}).values()


def list_mixer_names(config: Config) -> tuple[str, ...]:
    """Return the names that every block's stochastic mixer has; none where a block has a single mixer."""
    if not is_nested(config):
        return ()
    named = [tuple(block.get("mixer", {}).get("mixers", ())) for block in list_blocks(config)]
    return tuple(name for name in named[0] if all(name in names for names in named))


def choose_mixer(config: Config, name: str) -> dict[str, Any]:
    """Return the config with another main mixer in every block."""

    def change(block: Config) -> dict[str, Any]:
        return {**block, "mixer": {**block["mixer"], "main_mixer_name": name}}

    return _map_blocks(config, change)


def count_block_kinds(config: Config) -> int:
    """Return how many blocks hold one of each kind, in the order in which they repeat."""
    return len(config["decoder"].get("pattern") or (0,)) if is_nested(config) else 0


def has_attention(config: Config) -> bool:
    """Return whether some mixer of some block is softmax attention."""
    return any(mixer.get("type", "attention") == "attention" for mixer in list_mixers(config))


def find_window(config: Config) -> int | None:
    """Return the longest window of an attention, None without one."""
    return max((mixer["window_size"] for mixer in list_mixers(config) if mixer.get("window_size")), default=None)


def count_heads(config: Config) -> int:
    """Return the largest number of attention heads."""
    return max((int(mixer["heads"]) for mixer in list_mixers(config) if "heads" in mixer), default=1)


def shrink_nested(config: Config, layers: int, vocabulary: int) -> dict[str, Any]:
    """Return a config of the same kinds of blocks with few heads, `layers` of them."""
    thin = _map_blocks(config, _shrink_block)
    if isinstance(tower := config.get("vision_encoder"), Mapping):
        thin["vision_encoder"] = _shrink_tower(tower, layers)
    return {
        **thin,
        "hidden_size": THIN_HIDDEN,
        "vocab_size": vocabulary,
        "decoder": {**thin["decoder"], "num_blocks": layers},
    }


def _shrink_tower(tower: Config, layers: int) -> dict[str, Any]:
    """Return a vision encoder of thin blocks, as many as the decoder has; its patches stay."""
    encoder = _map_blocks({"decoder": tower["encoder"]}, _shrink_block)["decoder"]
    echoed = {key: layers for key in ("num_hidden_layers",) if key in tower}  # what Fast-LLM writes for other tools
    adapter = {**tower["adapter"], "intermediate_size": THIN_INTERMEDIATE}
    encoder = {**encoder, "num_blocks": layers}
    return {**tower, **echoed, "hidden_size": THIN_HIDDEN, "encoder": encoder, "adapter": adapter}


def _map_blocks(config: Config, change: Any) -> dict[str, Any]:
    decoder = dict(config["decoder"])
    if "blocks" in decoder:
        decoder["blocks"] = {name: change(block) for name, block in decoder["blocks"].items()}
    else:
        decoder["block"] = change(decoder["block"])
    return {**config, "decoder": decoder}


def _shrink_block(block: Config) -> dict[str, Any]:
    mixer = dict(block["mixer"])
    if "mixers" in mixer:
        mixer["mixers"] = {name: _shrink_mixer(each) for name, each in mixer["mixers"].items()}
    else:
        mixer = _shrink_mixer(mixer)
    return {**block, "mixer": mixer, "mlp": {**block["mlp"], "intermediate_size": THIN_INTERMEDIATE}}


def _shrink_mixer(mixer: Config) -> dict[str, Any]:
    """Return a mixer of two heads, or of four in two groups where heads share others.

    (Fast-LLM builds no gated delta net of one key head.)
    """
    groups = {"heads": "head_groups", "value_heads": "key_heads"}
    thin = dict(mixer)
    for heads, shared in groups.items():
        if heads in mixer:
            grouped = mixer.get(shared, mixer[heads]) < mixer[heads]
            thin |= {heads: THIN_HEADS * (2 if grouped else 1)}
            thin |= {shared: THIN_HEADS} if shared in mixer else {}
    return thin
