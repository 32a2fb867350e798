"""The table of what an export keeps, changes, drops and adds beside its weights, each row with its judgement.

The rows of JSON files are made in `companion_keys`, those of special tokens in `companion_ids`. The findings of
`export_files` and the changed keys of `round_trip` judge; the table lays everything out, also what is as it was, so
that a reader sees what was looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.chat_templates.compare import judge_rewritten_templates
from ci.chat_templates.template_files import pair_templates
from ci.companion_files import PROCESSOR_FILES, TOKENIZER_FILES
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.companion_ids import list_special_ids
from ci.equivalence.companion_keys import UNRESOLVED, list_config_keys, list_generation_keys
from ci.equivalence.export_files import (
    CONFIG,
    ExportedFiles,
    ExportFinding,
    compare_export_files,
    find_difference,
    open_exported,
    read_declared_dtype,
)
from ci.evidence import Companion, CompanionJudgement, Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ci.chat_templates.compare import TemplateJudgement
    from ci.chat_templates.template_files import TemplatePair
    from ci.equivalence.round_trip import KeyChange
    from ci.subjects.sandbox import Isolation

MAX_ROWS = 700
MAX_TEXT = 120


def compare_companions(
    original: Path, exported: Path, changes: Sequence[KeyChange] | None, isolation: Isolation
) -> tuple[tuple[Companion, ...], tuple[str, ...]]:
    """Compare all that lies beside the weights: the table, and the export policy's findings.

    `changes` is None where transformers reads one of the configs not at all. Rewritten chat templates run in processes
    with that `isolation`. Raises SubjectError for damaged weight files.
    """
    directories = open_exported(original, exported)
    templates = judge_rewritten_templates(*directories.both, isolation)
    rows = build_companions(open_exported(original, exported, templates), changes)
    stored = [row for row in rows if (row.part, row.name, row.judgement) == ("dtype", "stored", "finding")]
    unread = [row.name for row in rows if row.reason == UNRESOLVED]
    findings = [
        *compare_export_files(original, exported, templates),
        *([ExportFinding(CONFIG, "changed", f": {', '.join(unread)[:200]}; {UNRESOLVED}")] if unread else []),
        *(ExportFinding("the stored dtype", "changed", f": {row.after}, it was {row.before}") for row in stored),
    ]
    return rows, tuple(map(str, findings))


def build_companions(files: ExportedFiles, changes: Sequence[KeyChange] | None) -> tuple[Companion, ...]:
    """Build the rows; `changes` are the keys of config.json that transformers reads otherwise."""
    rows = (
        *list_config_keys(files, changes),
        *list_generation_keys(files),
        *_list_files(files),
        *_list_templates(files),
        *list_special_ids(files),
        *_list_dtypes(files),
    )
    return tuple(map(_clip, rows[:MAX_ROWS]))


def count_companions(rows: Sequence[Companion]) -> dict[str, float]:
    """Count the rows by what became of them, for the figures of a test."""
    fates: tuple[Fate, ...] = ("kept", "changed", "dropped", "added")
    return {f"companions.{fate}": float(sum(row.fate == fate for row in rows)) for fate in fates}


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
