"""What an engine makes of the files beside the weights, original against export: stops, sampling, tokens, dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.equivalence.export_files import ExportFinding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.consumers.base import ContinueResult, ScoreResult


def compare_served_files(
    original: tuple[ScoreResult, ContinueResult], export: tuple[ScoreResult, ContinueResult]
) -> tuple[ExportFinding, ...]:
    """Return what an engine does otherwise with the export than with the original."""
    return (
        *_compare_tokenizer(original[0], export[0]),
        *_compare_stops(original[1], export[1]),
        *_compare_sampling(original[1], export[1]),
        *_compare_template(original[1], export[1]),
        *_compare_tokenization(original[1], export[1]),
        *_compare_context(original[1], export[1]),
        *_compare_dtype(original[1], export[1]),
    )


def _compare_tokenizer(before: ScoreResult, after: ScoreResult) -> Iterator[ExportFinding]:
    if after.tokenizer and not before.tokenizer:
        yield ExportFinding("the served tokenizer", "lost", f": {after.tokenizer}")


def _compare_stops(before: ContinueResult, after: ContinueResult) -> Iterator[ExportFinding]:
    for token, stops in before.stops.items():
        if stops != after.stops.get(token):
            how = "goes on after" if stops else "ends at"
            yield ExportFinding(
                "served stop ids", "changed", f": generation {how} token {token}, unlike the original's"
            )


def _compare_sampling(before: ContinueResult, after: ContinueResult) -> Iterator[ExportFinding]:
    differing = [key for key, value in before.sampling.items() if after.sampling.get(key) != value]
    if differing:
        changes = ", ".join(f"{key} {before.sampling[key]} became {after.sampling.get(key)}" for key in differing)
        yield ExportFinding("served sampling defaults", "changed", f": {changes}")


def _compare_template(before: ContinueResult, after: ContinueResult) -> Iterator[ExportFinding]:
    if before.chat_ids and before.chat_ids != after.chat_ids:
        yield ExportFinding("the served chat template", "changed" if after.chat_ids else "lost")


def _compare_tokenization(before: ContinueResult, after: ContinueResult) -> Iterator[ExportFinding]:
    """Compare the ids of a text. Where the export has no tokenizer at all, that is its finding."""
    if after.text_ids and before.text_ids != after.text_ids:
        place = next(
            (i for i, (one, other) in enumerate(zip(before.text_ids, after.text_ids, strict=False)) if one != other),
            min(len(before.text_ids), len(after.text_ids)),
        )
        lengths = f"{len(after.text_ids)} tokens, of the original {len(before.text_ids)}"
        yield ExportFinding("served tokenization", "changed", f": a text is {lengths}, different from token {place} on")


def _compare_context(before: ContinueResult, after: ContinueResult) -> Iterator[ExportFinding]:
    if before.context and after.context and before.context != after.context:
        yield ExportFinding(
            "served context", "changed", f": at most {after.context} tokens, the original {before.context}"
        )


def _compare_dtype(before: ContinueResult, after: ContinueResult) -> Iterator[ExportFinding]:
    if before.default_dtype != after.default_dtype:
        named = f": {after.default_dtype or 'none'} by itself, the original in {before.default_dtype or 'none'}"
        yield ExportFinding("served dtype", "changed", named)
