"""The rows of a JSON file's keys in the table of companions: each key of config.json and of the generation config."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ci.companion_files import GENERATION_CONFIG
from ci.equivalence.export_files import CONFIG, DTYPE_KEYS, PARTS, PROVENANCE, SERVED_KEYS, TOKEN_IDS
from ci.equivalence.round_trip import METADATA_KEYS
from ci.evidence import Companion, Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.equivalence.export_files import ExportedFiles
    from ci.equivalence.round_trip import KeyChange

MAX_KEYS = 250
"""Keys of one file that are shown, those of the original first; published configs have up to 120."""
MAX_READ_KEYS = 20_000
MAX_DEPTH = 8
"""Levels of objects that are walked into: a mixer's RoPE in a nested decoder is the sixth."""
NULL = str(None)
UNREAD = "no forward pass of a finished model reads it"
WRITER = "it says who wrote the file"
SAME_MEANING = "transformers reads the same value"
UNRESOLVED = "transformers does not read one of the configs, so nobody knows what it makes of a changed key"


def list_config_keys(files: ExportedFiles, changes: Sequence[KeyChange] | None) -> Iterator[Companion]:
    """Yield the keys of config.json, then what transformers reads otherwise although no key differs.

    `changes` is None where it reads one of the files not at all.
    """
    shown = [_judge_config_key(row, changes) for row in _list_keys(files, CONFIG)]
    yield from shown
    for change in changes or ():
        if change.kind == "semantic" and not any(
            r.judgement == "defect" and _overlap(change.key, r.name) for r in shown
        ):
            one, other, why = str(change.before), str(change.after), "transformers fills it in otherwise"
            yield Companion(CONFIG, change.key, "changed", "defect", one, other, why)


def _judge_config_key(row: Companion, changes: Sequence[KeyChange] | None) -> Companion:
    """Judge a key of config.json by what transformers and other readers make of it."""
    if row.fate == "kept":
        return row
    own = [change for change in changes or () if _overlap(change.key, row.name)]
    if any(change.kind == "semantic" for change in own):
        return replace(row, judgement="defect", reason=f"the forward pass reads it{_resolve(row, own)}")
    if row.judgement == "equal":
        return row
    part, _, key = row.name.rpartition(".")
    if part in PARTS and key in (*TOKEN_IDS, *SERVED_KEYS) and row.fate != "added" and row.before != NULL:
        readers = "generation" if key in TOKEN_IDS else "an engine that serves the model"
        return replace(row, judgement="finding", reason=f"{readers} reads it{_resolve(row, own)}")
    if key in DTYPE_KEYS:
        return replace(row, reason="the row of the dtype judges it")
    if row.name in PROVENANCE:
        return replace(row, reason=WRITER)
    if changes is None and key not in METADATA_KEYS and row.name.partition(".")[0] not in METADATA_KEYS:
        return replace(row, judgement="finding", reason=UNRESOLVED)
    return replace(row, reason=UNREAD if own or changes is None else SAME_MEANING)


def _overlap(changed: str, path: str) -> bool:
    """Return whether one of two dotted paths is the other, or lies in it."""
    return changed == path or path.startswith(f"{changed}.") or changed.startswith(f"{path}.")


def _resolve(row: Companion, changes: Sequence[KeyChange]) -> str:
    """Say what transformers reads where a key is gone: its own default."""
    exact = next((change for change in changes if change.key == row.name), None)
    return f"; without it transformers reads {exact.after!r}" if exact and row.fate == "dropped" else ""


def list_generation_keys(files: ExportedFiles) -> Iterator[Companion]:
    """Yield the keys of the generation config: each change is a finding but who wrote it."""
    lost = files.original.has(GENERATION_CONFIG) and not files.exported.has(GENERATION_CONFIG)
    for row in _list_keys(files, GENERATION_CONFIG):
        if row.judgement == "equal":
            yield row
        elif row.name in PROVENANCE:
            yield replace(row, reason=WRITER)
        else:
            yield replace(
                row, judgement="finding", reason="the file was not exported" if lost else "generation reads it"
            )


def _list_keys(files: ExportedFiles, name: str) -> Iterator[Companion]:
    """Yield one row for each key of a JSON file, without a judgement of what changed."""
    if problem := files.exported.explain_unread(name):
        yield Companion(name, "the file", "changed", "finding", "", problem, "it cannot be read")
    before, after = (dict(islice(_walk(d.read_object(name), "", MAX_DEPTH), MAX_READ_KEYS)) for d in files.both)
    for key in islice({**before, **after}, MAX_KEYS):
        yield _compare_values(name, key, before, after)


def _compare_values(part: str, key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Companion:
    """Return the row of a key.

    Null is as good as no key, but it is shown.
    """
    same, shared = before.get(key) == after.get(key), key in before and key in after
    fate: Fate = "added" if key not in before else "dropped" if key not in after else "kept" if same else "changed"
    texts = [str(side[key]) if key in side else "" for side in (before, after)]
    why = "null is no value" if same and not shared else ""
    return Companion(part, key, fate, "equal" if same else "permitted", texts[0], texts[1], why)


def _walk(value: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested objects by dotted path."""
    for key, item in value.items():
        if isinstance(item, dict) and item and depth > 1:
            yield from _walk(item, f"{prefix}{key}.", depth - 1)
        else:
            yield f"{prefix}{key}", item
