"""What an exported Hugging Face directory loses beside its weights: token ids, generation config, tokenizer, template.

The forward pass does not read them, so no comparison of numbers sees their loss; but a model whose end-of-text id is
gone never stops generating. Whether a finding is red is the `export_policy` of the registry's entry.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.companion_files import GENERATION_CONFIG, PROCESSOR_FILES, TEMPLATE_FILES, TOKENIZER_FILES, list_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
PROVENANCE = frozenset({"_from_model_config", "transformers_version"})
"""Keys of a generation config that say who wrote it, not how to generate."""


@dataclass(frozen=True)
class ExportFinding:
    """One thing that the export lost or changed; `what` is a file, a key, or `stop ids`."""

    what: str
    change: Literal["lost", "changed"]
    detail: str = ""

    def __str__(self) -> str:
        change = "not exported" if self.change == "lost" else "changed"
        return f"export: {self.what} {change}{self.detail}"


def compare_export_files(original: Path, exported: Path) -> tuple[ExportFinding, ...]:
    """Compare all that a Hugging Face directory says beside its weights and its architecture."""
    return (
        *_compare_stop_ids(original, exported),
        *_compare_token_ids(original, exported),
        *_compare_generation(original, exported),
        *_compare_template(original, exported),
        *_compare_files(original, exported),
    )


def _compare_stop_ids(original: Path, exported: Path) -> Iterator[ExportFinding]:
    """Yield a finding where generation would stop at other tokens, or never."""
    before, after = read_stop_ids(original), read_stop_ids(exported)
    if before and not after:
        yield ExportFinding("stop ids", "lost", f": generation never stops, it stopped at {_join(before)}")
    elif before != after:
        yield ExportFinding(
            "stop ids", "changed", f": generation stops at {_join(after)}, it stopped at {_join(before)}"
        )


def read_stop_ids(directory: Path) -> frozenset[int]:
    """Return the ids at which transformers ends a text: the generation config's, else the config's."""
    for name in (GENERATION_CONFIG, "config.json"):
        ids = _read_json(directory / name).get("eos_token_id")
        if ids is not None:
            return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()


def _compare_token_ids(original: Path, exported: Path) -> Iterator[ExportFinding]:
    before, after = _read_json(original / "config.json"), _read_json(exported / "config.json")
    for key in TOKEN_IDS:
        if before.get(key) is not None and after.get(key) != before[key]:
            lost = after.get(key) is None
            detail = f": it was {before[key]}" if lost else f": {after[key]}, it was {before[key]}"
            yield ExportFinding(f"{key} of config.json", "lost" if lost else "changed", detail)


def _compare_generation(original: Path, exported: Path) -> Iterator[ExportFinding]:
    before, after = (_read_json(directory / GENERATION_CONFIG) for directory in (original, exported))
    if before and not (exported / GENERATION_CONFIG).is_file():
        yield ExportFinding(GENERATION_CONFIG, "lost")
    elif keys := sorted(k for k in {*before, *after} - PROVENANCE if before.get(k) != after.get(k)):
        yield ExportFinding(GENERATION_CONFIG, "changed", f": {', '.join(keys)}")


def _compare_template(original: Path, exported: Path) -> Iterator[ExportFinding]:
    """Compare the chat template's text, in whichever of its places it stands."""
    before, after = _read_template(original), _read_template(exported)
    if before and before != after:
        yield ExportFinding("the chat template", "changed" if after else "lost")


def _read_template(directory: Path) -> str:
    jinja = directory / TEMPLATE_FILES[0]
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8", errors="replace")
    for name in (TEMPLATE_FILES[1], "tokenizer_config.json"):
        if template := _read_json(directory / name).get("chat_template"):
            return json.dumps(template) if not isinstance(template, str) else template
    return ""


def _compare_files(original: Path, exported: Path) -> Iterator[ExportFinding]:
    """Compare the tokenizer's and the processor's files byte by byte."""
    for name in list_files(original, (*TOKENIZER_FILES, *PROCESSOR_FILES)):
        if not (exported / name).is_file():
            yield ExportFinding(name, "lost")
        elif (original / name).read_bytes() != (exported / name).read_bytes():
            yield ExportFinding(name, "changed")


def _read_json(file: Path) -> Mapping[str, Any]:
    """Return the object in a file; empty where there is none: its loss is a finding of its own."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _join(ids: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(ids)))
