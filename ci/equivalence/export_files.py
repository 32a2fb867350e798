"""What an exported Hugging Face directory loses beside its weights: token ids, generation config, tokenizer, template.

The forward pass does not read them, so no comparison of numbers sees their loss; but a model whose end-of-text id is
gone never stops generating. Whether a finding is red is the `export_policy` of the registry's entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from ci.chat_templates.compare import TemplateJudgement
from ci.chat_templates.template_files import DEFAULT, pair_templates
from ci.companion_files import (
    GENERATION_CONFIG,
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    CompanionDirectory,
    find_first_difference,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = "config.json"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")
PROVENANCE = frozenset({"_from_model_config", "transformers_version"})
"""Keys of a generation config that say who wrote it, not how to generate."""
SERVED_KEYS = ("architectures", "max_position_embeddings")
"""Keys of config.json by which an engine chooses its implementation, and the longest prompt that it takes."""
PARTS = ("", "text_config")
"""Where config.json has the keys of a language model: at its top, or, where it sees, in a section of its own."""
DTYPE_KEYS = ("dtype", "torch_dtype")
"""Where config.json declares the dtype that it was published in; the second is the older name."""


@dataclass(frozen=True)
class ExportFinding:
    """One thing that the export lost or changed; `what` is a file, a key, or `stop ids`."""

    what: str
    change: Literal["lost", "changed"]
    detail: str = ""

    def __str__(self) -> str:
        change = "not exported" if self.change == "lost" else "changed"
        return f"export: {self.what} {change}{self.detail}"


@dataclass(frozen=True)
class ExportedFiles:
    """The files of both checkpoints; `templates` are the engines' judgements of rewritten templates by name."""

    original: CompanionDirectory
    exported: CompanionDirectory
    templates: Mapping[str, TemplateJudgement]

    @property
    def both(self) -> tuple[CompanionDirectory, CompanionDirectory]:
        """The original, then the export."""
        return self.original, self.exported


def open_exported(
    original: Path, exported: Path, templates: Mapping[str, TemplateJudgement] | None = None
) -> ExportedFiles:
    """Open both directories. In the export a link counts as missing: it may lead anywhere."""
    return ExportedFiles(CompanionDirectory(original, links=True), CompanionDirectory(exported), templates or {})


def compare_export_files(
    original: Path, exported: Path, templates: Mapping[str, TemplateJudgement] | None = None
) -> tuple[ExportFinding, ...]:
    """Compare all that a Hugging Face directory says beside its weights and its architecture."""
    files = open_exported(original, exported, templates)
    return (
        *_compare_stop_ids(files),
        *_compare_token_ids(files),
        *_compare_served_keys(files),
        *_compare_dtype(files),
        *_compare_generation(files),
        *_compare_templates(files),
        *_compare_files(files),
    )


def _compare_stop_ids(files: ExportedFiles) -> Iterator[ExportFinding]:
    """Yield a finding where generation would stop at other tokens, or never."""
    before, after = map(_read_stop_ids, files.both)
    if before and not after:
        yield ExportFinding("stop ids", "lost", f": generation never stops, it stopped at {_join(before)}")
    elif before != after:
        yield ExportFinding(
            "stop ids", "changed", f": generation stops at {_join(after)}, it stopped at {_join(before)}"
        )


def read_stop_ids(directory: Path) -> frozenset[int]:
    """Return the ids at which transformers ends a text: the generation config's, else the config's, else its text's.

    The order is that of transformers' `GenerationConfig.from_model_config`.
    """
    return _read_stop_ids(CompanionDirectory(directory, links=True))


def _read_stop_ids(directory: CompanionDirectory) -> frozenset[int]:
    config = directory.read_object(CONFIG)
    for place in (directory.read_object(GENERATION_CONFIG), *(read_part(config, part) for part in PARTS)):
        ids = place.get("eos_token_id")
        if ids is not None:
            return frozenset(one for one in (ids if isinstance(ids, list) else [ids]) if isinstance(one, int))
    return frozenset()


def read_part(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Return config.json, or the named section of it; empty without one."""
    section = config.get(part) if part else config
    return section if isinstance(section, dict) else {}


def _compare_token_ids(files: ExportedFiles) -> Iterator[ExportFinding]:
    yield from _compare_keys(files, TOKEN_IDS)


def _compare_served_keys(files: ExportedFiles) -> Iterator[ExportFinding]:
    """Yield a finding where an engine would choose another implementation, or another longest prompt."""
    yield from _compare_keys(files, SERVED_KEYS)


def _compare_keys(files: ExportedFiles, keys: tuple[str, ...]) -> Iterator[ExportFinding]:
    before, after = (directory.read_object(CONFIG) for directory in files.both)
    for part, key in product(PARTS, keys):
        one, other = read_part(before, part).get(key), read_part(after, part).get(key)
        if one is not None and one != other:
            detail = f": it was {one}" if other is None else f": {other}, it was {one}"
            path = f"{part}.{key}" if part else key
            yield ExportFinding(f"{path} of config.json", "lost" if other is None else "changed", detail[:200])


def _compare_dtype(files: ExportedFiles) -> Iterator[ExportFinding]:
    """Yield a finding where config.json declares another dtype: loaders and engines compute in what it says."""
    before, after = map(read_declared_dtype, files.both)
    if before and before != after:
        detail = f": {after}, it was {before}" if after else f": it was {before}"
        yield ExportFinding("the declared dtype", "changed" if after else "lost", detail)


def read_declared_dtype(directory: CompanionDirectory) -> str:
    """Return the dtype that config.json declares, of a multimodal model its text part's; "" for none."""
    config = directory.read_object(CONFIG)
    sections = [read_part(config, part) for part in PARTS]
    named = (section.get(key) for section in sections for key in DTYPE_KEYS)
    return next((str(dtype).removeprefix("torch.")[:40] for dtype in named if dtype), "")


def _compare_generation(files: ExportedFiles) -> Iterator[ExportFinding]:
    before, after = (directory.read_object(GENERATION_CONFIG) for directory in files.both)
    if before and not files.exported.has(GENERATION_CONFIG):
        yield ExportFinding(GENERATION_CONFIG, "lost")
    elif problem := files.exported.explain_unread(GENERATION_CONFIG):
        yield ExportFinding(GENERATION_CONFIG, "changed", f": {problem}")
    elif keys := sorted(k for k in {*before, *after} - PROVENANCE if before.get(k) != after.get(k)):
        yield ExportFinding(GENERATION_CONFIG, "changed", f": {', '.join(keys)[:200]}")


def _compare_templates(files: ExportedFiles) -> Iterator[ExportFinding]:
    """Compare the chat templates, wherever they stand. One that two engines hold equal is no finding."""
    for name, pair in pair_templates(*files.both).items():
        judged = files.templates.get(name) if pair.is_rewritten else None
        if pair.before is None or pair.is_kept or (judged and judged.held):
            continue
        what = "the chat template" if name == DEFAULT else f"the chat template {name[:60]}"
        yield ExportFinding(what, "changed" if pair.is_rewritten else "lost", f": {judged}" if judged else "")


def _compare_files(files: ExportedFiles) -> Iterator[ExportFinding]:
    """Compare the tokenizer's and the processor's files byte by byte."""
    for name in files.original.list_names((*TOKENIZER_FILES, *PROCESSOR_FILES)):
        if not files.exported.has(name):
            yield ExportFinding(name, "lost")
        elif find_difference(files, name) is not None:
            yield ExportFinding(name, "changed")


def find_difference(files: ExportedFiles, name: str) -> int | None:
    """Return the first byte that differs in a file of that name, or None."""
    with files.original.open(name) as before, files.exported.open(name) as after:
        return find_first_difference(before, after)


def _join(ids: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(ids)[:16]))
