"""All limits of the report: on input that can be an attack, and on output that GitHub accepts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputLimits:
    """Limits of one result file. A file over a limit is cut there, and its entry turns red."""

    xml_bytes: int = 32 * 2**20
    depth: int = 16
    cases: int = 5_000
    elements: int = 500_000
    attributes: int = 32
    name_chars: int = 200
    message_chars: int = 2_000
    detail_chars: int = 16_000
    evidence_chars: int = 2 * 2**20
    evidence_items: int = 4_000
    files: int = 4_096
    archive_ratio: int = 200


INPUT = InputLimits()

COMMENT_CHARS = 65_536
"""Body of an issue comment: the API answers "body is too long (maximum is 65536 characters)"."""

SUMMARY_BYTES = 2**20
"""Step summary: above 1 MiB the runner drops the whole summary (`AttachmentSizeLimit` in actions/runner)."""

ANNOTATIONS = 50
"""Annotations in one request to the checks API."""
