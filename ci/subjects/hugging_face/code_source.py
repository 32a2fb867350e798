"""Where the code of a model comes from, and its hash. Standard library only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import RequestError

if TYPE_CHECKING:
    from ci.models import HubModel

SHOWN_DIGITS = 12
IMPORT_FAILED = "cannot be imported"
"""What the worker's message says where the model's code raises while it is imported, or lacks a file."""


@dataclass(frozen=True)
class ModelCodeSource:
    """Where a model's code comes from: its directory, and in words whose it is, with the commit.

    `from_hub`: it came with the model, so that no subject is to blame for it.
    """

    directory: Path
    origin: str
    from_hub: bool = False

    def __str__(self) -> str:
        return f"{self.origin} (sha256 {hash_code(self.directory)[:SHOWN_DIGITS]})"


def hash_code(directory: Path) -> str:
    """Return the SHA-256 of the names and contents of a directory's Python files, in hex."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.py")):
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def find_code_source(
    model: HubModel, checkouts: tuple[Path, ...], subject_commit: str | None, fetched: Path | None = None
) -> ModelCodeSource:
    """Return the code of an entry that needs some: what was `fetched` with the model, or the subject's checkout's.

    Raises RequestError where the checkout is not given, or does not have it.
    """
    if fetched is not None:
        return ModelCodeSource(fetched, f"{model.model_id} on the Hub at {model.code_revision}", from_hub=True)
    for checkout in checkouts:
        if (directory := checkout / model.code_path).is_dir():
            at = f" at {subject_commit}" if subject_commit else ""
            source = ModelCodeSource(directory, f"the subject's own checkout{at}, {model.code_path}")
            return _check(source, model, f"{directory} has no Python files")
    raise RequestError(
        f"[{model.name}] code_path {model.code_path}: no checkout of the subject has it; name one by --subject-source, "
        "or by --subject-path"
    )


def _check(source: ModelCodeSource, model: HubModel, reason: str) -> ModelCodeSource:
    if not any(source.directory.glob("*.py")):
        raise RequestError(f"[{model.name}] trust_remote_code: {reason}")
    return source
