"""Records that one job hands to a later one as job outputs, which no other job can forge: packed, within limits.

An artifact could not carry them: any job of a run can replace one. Outputs come back as environment variables, each at
most 128 KiB (Linux's MAX_ARG_STRLEN), so records are compressed.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ci.checkpoints import CHECKPOINTS_JSON, FetchResults, write_checkpoints
from ci.errors import GatedError, InfrastructureError, OwnLimitError, RequestError
from ci.hub.checkpoint_files import find_content_problems
from ci.hub.fetch import Checkpoint
from ci.hub.manifest import MANIFEST, read_manifest
from ci.hub.store import REPAIR_HINT
from ci.records import read_json, to_dict, to_json
from ci.report.results import Problem

if TYPE_CHECKING:
    from ci.evidence import FailureClass
    from ci.hub.code_files import FetchedCode
    from ci.plan import Plan

T = TypeVar("T")

MAX_PACKED_CHARS = 120 * 1024
MAX_UNPACKED_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FetchOutputs:
    """The outputs of `fetch` for `test`, by entry: checkpoints with their path inside the store, and failures.

    `code` are the digests of the Python files that models bring (`CodeManifest.digest`).
    """

    checkpoints: Mapping[str, Checkpoint]
    problems: Mapping[str, Problem]
    code: Mapping[str, str] = field(default_factory=dict)


def pack_record(record: Any) -> str:
    """Pack a record as one line of base64.

    Raises RequestError if it does not fit into an environment variable.
    """
    packed = base64.b64encode(zlib.compress(to_json(record).encode(), 9)).decode()
    if len(packed) > MAX_PACKED_CHARS:
        raise RequestError(
            f"{type(record).__name__} of {len(packed)} count_characters, a step takes {MAX_PACKED_CHARS}: ask for less"
        )
    return packed


def unpack_record(kind: type[T], text: str, *, what: str) -> T:
    """Unpack a record of `pack_record`; `what` names it in the RequestError."""
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED_BYTES)
    except (zlib.error, binascii.Error, ValueError):
        raise RequestError(f"{what}: not a record that an earlier job packed") from None
    if reader.unconsumed_tail or not reader.eof:
        raise RequestError(f"{what}: cut short, or over {MAX_UNPACKED_BYTES} bytes")
    return read_json(kind, plain, what=what)


def make_fetch_outputs(
    checkpoints: Mapping[str, Checkpoint],
    failures: Mapping[str, Exception],
    store: Path,
    code: Mapping[str, FetchedCode] | None = None,
) -> FetchOutputs:
    """Make the outputs, with paths relative to `store`: another machine may mount it elsewhere."""
    relative = {
        name: replace(checkpoint, path=Path(checkpoint.path).resolve().relative_to(store.resolve()).as_posix())
        for name, checkpoint in checkpoints.items()
    }
    problems = {name: Problem(classify_fetch_error(error), str(error)) for name, error in failures.items()}
    return FetchOutputs(relative, problems, {name: one.digest for name, one in (code or {}).items()})


def classify_fetch_error(error: Exception) -> FailureClass:
    """Return the failure class of a fetch that failed.

    None of them blames the subject, which has not run yet.
    """
    if isinstance(error, GatedError):
        return "gated"
    if isinstance(error, OwnLimitError):
        return error.failure_class
    return "hub_unavailable" if isinstance(error, InfrastructureError) else "environment"


def verify_checkpoint(outputs: FetchOutputs, entry: str, store: Path) -> Checkpoint:
    """Find the checkpoint of `entry` in this machine's store and verify every byte.

    It must be what `fetch` saw. Raises InfrastructureError if it is missing or differs.
    """
    fetched = outputs.checkpoints.get(entry)
    if fetched is None:
        raise InfrastructureError(f"checkpoint of '{entry}': the fetch job has none in its outputs")
    path = (store / fetched.path).resolve()
    if not path.is_relative_to(store.resolve()):
        raise RequestError(f"checkpoint of '{entry}': {fetched.path} is outside of the store")
    if not (path / MANIFEST).is_file():
        raise InfrastructureError(f"{path}: the checkpoint of '{entry}' is not on this machine: is the store shared?")
    manifest, digest = read_manifest(path)
    if digest != fetched.manifest_sha256:
        raise InfrastructureError(f"{path}: not the checkpoint that was fetched: its manifest has sha256 {digest}")
    if problems := find_content_problems(path, manifest):
        raise InfrastructureError(f"{path}: not the checkpoint that was fetched: {problems[0]}; {REPAIR_HINT}")
    return replace(fetched, path=str(path))


def write_run_files(
    plan: Plan, entry: str, checkpoint: Checkpoint, out: Path, *, code_environment: str = ""
) -> tuple[Path, Path]:
    """Write `checkpoints.json` and `models.toml`, which pin `hub-tests run` to one planned and fetched entry.

    The environments are resolved: `code_environment` is that of the model's own code on this machine, and the
    subject's is what `run` is told.
    """
    planned = plan.entry(entry)
    if planned is None:
        raise RequestError(f"'{entry}' is not in the plan; the plan has {', '.join(e.name for e in plan.entries)}")
    out.mkdir(parents=True, exist_ok=True)
    model = {key: value for key, value in to_dict(planned.model).items() if value is not None and key != "name"}
    part = {key: value for key, value in model.pop("slice").items() if value is not None}
    model |= {"revision": checkpoint.revision, "num_layers_to_keep": checkpoint.layers}
    model |= {"slice": part} if part else {}
    model |= {"code_environment": str(Path(code_environment).absolute())} if code_environment.endswith(".toml") else {}
    unsaid = ("layers", "environments", "known_refusals")
    model = {key: value for key, value in model.items() if value or key not in unsaid}
    model.pop("environments", None)
    checkpoints_path, registry_path = out / CHECKPOINTS_JSON, out / "models.toml"
    write_checkpoints(FetchResults({entry: checkpoint}), checkpoints_path)
    registry_path.write_text(_format_toml(entry, model), encoding="utf-8")
    return checkpoints_path, registry_path


def _format_toml(name: str, table: Mapping[str, Any]) -> str:
    """Format one table with scalars, arrays of scalars or of tables, and inner tables.

    JSON's scalars are valid TOML.
    """
    inner_tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"[{name}]", *(f"{k} = {_format_value(v)}" for k, v in table.items() if k not in inner_tables)]
    for key, values in inner_tables.items():
        lines += [f"[{name}.{key}]", *(f"{k} = {_format_value(v)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return f"[{', '.join(_format_inline_table(item) for item in value)}]"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=True)


def _format_inline_table(table: Mapping[str, Any]) -> str:
    return f"{{ {', '.join(f'{key} = {_format_value(value)}' for key, value in table.items())} }}"
