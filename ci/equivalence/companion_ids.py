"""The rows of special tokens in the table of companions: what each place says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.chat_templates.template_files import read_special_tokens
from ci.companion_files import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from ci.equivalence.export_files import CONFIG, PARTS, read_part
from ci.evidence import Companion, Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.companion_files import CompanionDirectory
    from ci.equivalence.export_files import ExportedFiles

SPECIAL_IDS = ("bos", "eos", "pad", "unk")
NOWHERE = "none"
"""What a special token is called that no place has."""


def list_special_ids(files: ExportedFiles) -> Iterator[Companion]:
    """Yield one row for each special token: what it is in each place that says it."""
    before, after = map(_read_special_ids, files.both)
    for token in SPECIAL_IDS:
        yield from _compare_id(token, before[token], after[token])


def _compare_id(token: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Companion]:
    """Yield the row of a token that any place has.

    An id more is permitted, another one or none is a finding.
    """
    if not before and not after:
        return
    one, other = (", ".join(f"{place} {value}" for place, value in side.items()) or NOWHERE for side in (before, after))
    if before == after:
        yield Companion("special ids", token, "kept", "equal", one, other)
        return
    lost = any(after.get(place) != value for place, value in before.items())
    fate: Fate = "added" if not before else "dropped" if not after else "changed"
    why = "generation and padding read them" if lost else ""
    yield Companion("special ids", token, fate, "finding" if lost else "permitted", one, other, why)


def _read_special_ids(directory: CompanionDirectory) -> dict[str, dict[str, str]]:
    """Return what each special token is, by the place that says it."""
    tokenizer, config = _read_tokenizer_ids(directory), directory.read_object(CONFIG)
    places = {part or "config": read_part(config, part) for part in PARTS}
    places["generation_config"] = directory.read_object(GENERATION_CONFIG)
    ids: dict[str, dict[str, str]] = {}
    for token in SPECIAL_IDS:
        configs = {place: keys.get(f"{token}_token_id") for place, keys in places.items()}
        said = {**configs, "tokenizer": tokenizer.get(token)}
        ids[token] = {place: str(value) for place, value in said.items() if value is not None}
    return ids


def _read_tokenizer_ids(directory: CompanionDirectory) -> dict[str, str]:
    """Return each special token of a tokenizer: its id, where known, and text."""
    texts = read_special_tokens(directory)
    ids = _read_added_tokens(directory.read_object(TOKENIZER), directory.read_object(TOKENIZER_CONFIG))
    named = {token: texts[f"{token}_token"] for token in SPECIAL_IDS if f"{token}_token" in texts}
    return {token: f"{ids.get(text, 'unknown id')} {text}" for token, text in named.items()}


def _read_added_tokens(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of added tokens by their text, from tokenizer.json, else from tokenizer_config.json."""
    added, decoder = tokenizer.get("added_tokens"), config.get("added_tokens_decoder")
    listed = added if isinstance(added, list) else []
    decoded = decoder.items() if isinstance(decoder, dict) else ()
    return {
        **{str(one.get("content")): key for key, one in decoded if isinstance(one, dict)},
        **{str(one.get("content")): one.get("id") for one in listed if isinstance(one, dict)},
    }
