"""The table of what an export keeps, changes, drops and adds beside its weights, each row with its judgement.

The findings of `export_files` and the changed keys of `round_trip` judge; this module lays everything out, also what
is as it was, so that a reader sees what was looked at.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ci.chat_templates.compare import judge_rewritten_templates
from ci.chat_templates.template_files import pair_templates, read_special_tokens
from ci.companion_files import GENERATION_CONFIG, PROCESSOR_FILES, TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_FILES
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.export_files import (
    CONFIG,
    DTYPE_KEYS,
    PROVENANCE,
    SERVED_KEYS,
    TOKEN_IDS,
    ExportedFiles,
    ExportFinding,
    compare_export_files,
    find_difference,
    open_exported,
    read_declared_dtype,
)
from ci.evidence import Companion, CompanionJudgement, Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.chat_templates.compare import TemplateJudgement
    from ci.chat_templates.template_files import TemplatePair
    from ci.companion_files import CompanionDirectory
    from ci.equivalence.round_trip import KeyChange
    from ci.subjects.sandbox import Isolation

SPECIAL_IDS = ("bos", "eos", "pad", "unk")
ID_PLACES = ("config", "generation_config")
MAX_ROWS = 700
MAX_KEYS = 250
"""Keys of one file that are shown, those of the original first; published configs have up to 120."""
MAX_READ_KEYS = 20_000
MAX_DEPTH = 4
MAX_TEXT = 120
NULL = str(None)
NOWHERE = "none"
"""What a special token is called that no place has."""
UNREAD = "no forward pass of a finished model reads it"
WRITER = "it says who wrote the file"
SAME_MEANING = "transformers reads the same value"


def compare_companions(
    original: Path, exported: Path, changes: Sequence[KeyChange], isolation: Isolation
) -> tuple[tuple[Companion, ...], tuple[str, ...]]:
    """Compare all that lies beside the weights: the table, and the export policy's findings.

    Rewritten chat templates run in processes with that `isolation`. Raises SubjectError for damaged weight files.
    """
    directories = open_exported(original, exported)
    templates = judge_rewritten_templates(*directories.both, isolation)
    rows = build_companions(open_exported(original, exported, templates), changes)
    stored = [row for row in rows if (row.part, row.name, row.judgement) == ("dtype", "stored", "finding")]
    findings = [
        *compare_export_files(original, exported, templates),
        *(ExportFinding("the stored dtype", "changed", f": {row.after}, it was {row.before}") for row in stored),
    ]
    return rows, tuple(map(str, findings))


def build_companions(files: ExportedFiles, changes: Sequence[KeyChange]) -> tuple[Companion, ...]:
    """Build the rows; `changes` are the keys of config.json that transformers reads otherwise."""
    rows = (
        *_list_config(files, changes),
        *_list_generation(files),
        *_list_files(files),
        *_list_templates(files),
        *_list_special_ids(files),
        *_list_dtypes(files),
    )
    return tuple(map(_clip, rows[:MAX_ROWS]))


def count_companions(rows: Sequence[Companion]) -> dict[str, float]:
    """Count the rows by what became of them, for the figures of a test."""
    fates: tuple[Fate, ...] = ("kept", "changed", "dropped", "added")
    return {f"companions.{fate}": float(sum(row.fate == fate for row in rows)) for fate in fates}


def _list_config(files: ExportedFiles, changes: Sequence[KeyChange]) -> Iterator[Companion]:
    """Yield the keys of config.json, then what transformers reads otherwise although no key differs."""
    shown = [_judge_config_key(row, changes) for row in _list_keys(files, CONFIG)]
    yield from shown
    for change in changes:
        if change.kind == "semantic" and not any(
            r.judgement == "defect" and _overlap(change.key, r.name) for r in shown
        ):
            one, other, why = str(change.before), str(change.after), "transformers fills it in otherwise"
            yield Companion(CONFIG, change.key, "changed", "defect", one, other, why)


def _judge_config_key(row: Companion, changes: Sequence[KeyChange]) -> Companion:
    """Judge a key of config.json by what transformers and other readers make of it."""
    if row.fate == "kept":
        return row
    own = [change for change in changes if _overlap(change.key, row.name)]
    if any(change.kind == "semantic" for change in own):
        return replace(row, judgement="defect", reason=f"the forward pass reads it{_resolve(row, own)}")
    if row.judgement == "equal":
        return row
    if row.name in (*TOKEN_IDS, *SERVED_KEYS) and row.fate != "added" and row.before != NULL:
        readers = "generation" if row.name in TOKEN_IDS else "an engine that serves the model"
        return replace(row, judgement="finding", reason=f"{readers} reads it{_resolve(row, own)}")
    if row.name.rpartition(".")[2] in DTYPE_KEYS:
        return replace(row, reason="the row of the dtype judges it")
    if row.name in PROVENANCE:
        return replace(row, reason=WRITER)
    return replace(row, reason=UNREAD if own else SAME_MEANING)


def _overlap(changed: str, path: str) -> bool:
    """Return whether one of two dotted paths is the other, or lies in it."""
    return changed == path or path.startswith(f"{changed}.") or changed.startswith(f"{path}.")


def _resolve(row: Companion, changes: Sequence[KeyChange]) -> str:
    """Say what transformers reads where a key is gone: its own default."""
    exact = next((change for change in changes if change.key == row.name), None)
    return f"; without it transformers reads {exact.after!r}" if exact and row.fate == "dropped" else ""


def _list_generation(files: ExportedFiles) -> Iterator[Companion]:
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


def _list_files(files: ExportedFiles) -> Iterator[Companion]:
    """Yield one row for each file of tokenizer and processor, compared byte by byte."""
    patterns = (*TOKENIZER_FILES, *PROCESSOR_FILES)
    before, after = (directory.list_names(patterns) for directory in files.both)
    for name in dict.fromkeys((*before, *after)):
        part = "processor files" if name in PROCESSOR_FILES else "tokenizer files"
        if name not in after:
            yield Companion(part, name, "dropped", "finding", _describe_file(files.original.path / name))
        elif name not in before:
            yield Companion(part, name, "added", "permitted", "", _describe_file(files.exported.path / name))
        elif (offset := find_difference(files, name)) is None:
            yield Companion(part, name, "kept", "equal", reason="the same bytes")
        else:
            one, other = (_describe_file(directory.path / name) for directory in files.both)
            yield Companion(part, name, "changed", "finding", one, other, f"the first other byte is number {offset}")


def _describe_file(path: Path) -> str:
    return f"{path.stat().st_size} bytes"


def _list_templates(files: ExportedFiles) -> Iterator[Companion]:
    """Yield one row for each chat template, by name."""
    for name, pair in pair_templates(*files.both).items():
        yield _judge_template(name, pair, files.templates.get(name))


def _judge_template(name: str, pair: TemplatePair, judged: TemplateJudgement | None) -> Companion:
    """Return the row of a chat template; a rewritten one is what the engines say of it."""
    part = "chat template"
    one, other = (f"{len(side.text)} characters" if side else "" for side in (pair.before, pair.after))
    if pair.before is None:
        return Companion(part, name, "added", "permitted", one, other)
    if pair.after is None:
        return Companion(part, name, "dropped", "finding", one, other)
    if pair.is_rewritten:
        judgement: CompanionJudgement = "permitted" if judged and judged.held else "finding"
        return Companion(part, name, "changed", judgement, one, other, str(judged or "no engine judged it"))
    moved = f"it moved from {pair.before.place} to {pair.after.place}"
    return Companion(
        part, name, "kept", "equal", reason=moved if pair.before.place != pair.after.place else "the same text"
    )


def _list_special_ids(files: ExportedFiles) -> Iterator[Companion]:
    """Yield one row for each special token: what it is in each of its three places."""
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
    tokenizer = _read_tokenizer_ids(directory)
    ids: dict[str, dict[str, str]] = {}
    for token in SPECIAL_IDS:
        configs = {place: directory.read_object(f"{place}.json").get(f"{token}_token_id") for place in ID_PLACES}
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


def _list_dtypes(files: ExportedFiles) -> Iterator[Companion]:
    before, after = map(read_declared_dtype, files.both)
    if before and after == before:
        yield Companion("dtype", "declared", "kept", "equal", before, after)
    elif before:
        why = "loaders and engines compute in what config.json declares"
        yield Companion("dtype", "declared", "changed" if after else "dropped", "finding", before, after, why)
    elif after:
        yield Companion("dtype", "declared", "added", "permitted", before, after)
    yield from _compare_stored_dtypes(files)


def _compare_stored_dtypes(files: ExportedFiles) -> Iterator[Companion]:
    """Compare the dtypes in which the tensors that both have are stored.

    The values may be equal and the dtypes not.
    """
    if not all(any(directory.path.glob("*.safetensors")) for directory in files.both):
        return
    before, after = (CheckpointTensors(directory.path).read_dtypes() for directory in files.both)
    pairs = dict.fromkeys((before[name], after[name]) for name in before if name in after)
    one, other = (", ".join(sorted({pair[side] for pair in pairs})) for side in (0, 1))
    kept = all(stored == exported for stored, exported in pairs)
    yield Companion("dtype", "stored", "kept" if kept else "changed", "equal" if kept else "finding", one, other)


def _clip(row: Companion) -> Companion:
    """Return the row with short texts: the values are as long as a publisher likes."""
    cut = {key: getattr(row, key)[:MAX_TEXT] for key in ("name", "before", "after")}
    return replace(row, reason=row.reason[: 4 * MAX_TEXT], **cut)
