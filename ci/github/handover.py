"""What one job hands to a later one as a job output, which no other job can forge: packed records, within limits.

An artifact could not carry this: any job of a run can replace one. Outputs come back as environment variables, each at
most 128 KiB (Linux's MAX_ARG_STRLEN), so records are compressed.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ci.checkpoints import CHECKPOINTS_JSON, FetchResults, write_checkpoints
from ci.errors import GatedError, InfrastructureError, RequestError
from ci.hub.fetch import Checkpoint
from ci.hub.manifest import MANIFEST, content_problems, read_manifest
from ci.records import read_json, to_dict, to_json
from ci.report.outcome import Problem

if TYPE_CHECKING:
    from ci.evidence import FailureClass
    from ci.plan import Plan

T = TypeVar("T")

MAX_PACKED = 120 * 1024
MAX_UNPACKED = 16 * 2**20


@dataclass(frozen=True)
class Delivery:
    """What `fetch` has for `test`: checkpoints by entry with their path inside the store, and what it could not get."""

    checkpoints: Mapping[str, Checkpoint]
    problems: Mapping[str, Problem]


def pack(record: Any) -> str:
    """A record as one line of letters and digits. Raises RequestError where it would not fit a variable."""
    packed = base64.b64encode(zlib.compress(to_json(record).encode(), 9)).decode()
    if len(packed) > MAX_PACKED:
        raise RequestError(
            f"{type(record).__name__} of {len(packed)} characters, a step takes {MAX_PACKED}: ask for less"
        )
    return packed


def unpack(kind: type[T], text: str, *, what: str) -> T:
    """The record that `pack` made."""
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
    except (zlib.error, binascii.Error, ValueError):
        raise RequestError(f"{what}: not what an earlier job packed") from None
    if reader.unconsumed_tail or not reader.eof:
        raise RequestError(f"{what}: cut short, or over {MAX_UNPACKED} bytes")
    return read_json(kind, plain, what=what)


def deliver(had: Mapping[str, Checkpoint], failed: Mapping[str, Exception], store: Path) -> Delivery:
    """Checkpoints with their paths relative to `store`, so that another machine can have it elsewhere."""
    inside = {
        name: replace(point, path=Path(point.path).resolve().relative_to(store.resolve()).as_posix())
        for name, point in had.items()
    }
    return Delivery(inside, {name: Problem(failure_class(error), str(error)) for name, error in failed.items()})


def failure_class(error: Exception) -> FailureClass:
    """Why a model could not be fetched, as the report classifies it. No class blames code that has not run yet."""
    if isinstance(error, GatedError):
        return "gated"
    return "hub_unavailable" if isinstance(error, InfrastructureError) else "environment"


def receive(delivery: Delivery, entry: str, store: Path) -> Checkpoint:
    """The checkpoint of `entry` in this machine's store, every byte held against what `fetch` saw.

    Raises InfrastructureError where it is not there, or not the same.
    """
    point = delivery.checkpoints.get(entry)
    if point is None:
        raise InfrastructureError(f"checkpoint of '{entry}': the fetch job handed none over")
    path = (store / point.path).resolve()
    if not path.is_relative_to(store.resolve()):
        raise RequestError(f"checkpoint of '{entry}': {point.path} leads out of the store")
    if not (path / MANIFEST).is_file():
        raise InfrastructureError(f"{path}: the checkpoint of '{entry}' is not on this machine: is the store shared?")
    manifest, digest = read_manifest(path)
    if digest != point.manifest_sha256:
        raise InfrastructureError(f"{path}: not the checkpoint that was fetched: its manifest has sha256 {digest}")
    if problems := content_problems(path, manifest):
        raise InfrastructureError(f"{path}: not the checkpoint that was fetched: {problems[0]}")
    return replace(point, path=str(path))


def write_entry(plan: Plan, entry: str, checkpoint: Checkpoint, out: Path) -> tuple[Path, Path]:
    """`checkpoints.json` and `models.toml` for `hub-tests run` of one entry: exactly what was planned and fetched."""
    planned = plan.entry(entry)
    if planned is None:
        raise RequestError(f"'{entry}' is not in the plan")
    out.mkdir(parents=True, exist_ok=True)
    model = {key: value for key, value in to_dict(planned.model).items() if value is not None and key != "name"}
    model |= {"revision": checkpoint.revision, "num_layers_to_keep": checkpoint.layers}
    paths = out / CHECKPOINTS_JSON, out / "models.toml"
    write_checkpoints(FetchResults({entry: checkpoint}), paths[0])
    paths[1].write_text(_toml(entry, model), encoding="utf-8")
    return paths


def _toml(name: str, table: Mapping[str, Any]) -> str:
    """One table with scalars, arrays of words and one inner table; JSON's scalars are TOML's."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items() if key not in inner)]
    for key, values in inner.items():
        lines += [f"[{name}.{key}]", *(f"{k} = {_value(v)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=True)
