"""The checkpoints of a run: fetched for several models, and kept in `checkpoints.json`.

The file is a JSON list. A fetched model has the keys of `ci.hub.fetch.Checkpoint` and its registry `name`; a model that
could not be fetched has `name`, `gated` and `error`, and says so where the request or a limit of hub-tests
(`not_truncatable`, `remote_code`, `quantized`) is the cause. `hub-tests fetch --json` prints the same list.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ci.errors import (
    GatedError,
    HubTestsError,
    InfrastructureError,
    NotTruncatableError,
    OwnLimitError,
    QuantizedError,
    RemoteCodeError,
    RequestError,
)
from ci.hub.code_files import FetchedCode, fetch_code
from ci.hub.fetch import Checkpoint, FetchRequest, fetch
from ci.models import override_part
from ci.records import read_dict, to_dict
from ci.settings import NETWORK_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ci.hub.layers import LayerRequest
    from ci.hub.progress import Progress
    from ci.hub.slices import Slice
    from ci.models import HubModel
    from ci.settings import Settings

CHECKPOINTS_JSON = "checkpoints.json"


@dataclass(frozen=True)
class FetchResults:
    """Checkpoints by registry name, and the error of each model that could not be fetched."""

    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    errors: Mapping[str, HubTestsError] = field(default_factory=dict)
    code: Mapping[str, FetchedCode] = field(default_factory=dict)

    def result_of(self, name: str) -> Checkpoint | HubTestsError | None:
        """Return the checkpoint or the error of a model; None where neither is known."""
        return self.checkpoints.get(name) or self.errors.get(name)


def make_fetch_request(model: HubModel) -> FetchRequest:
    """Return what to fetch for an entry of the registry.

    Raises RemoteCodeError for a model that runs code of its own, where the entry does not say where.
    The fetch refuses quantised weights of what a subject would convert, unless the entry says how to dequantise them.
    """
    check_own_code(model)
    converted = bool(model.checkpoint_format)  # a Hub id on the command line is only fetched
    plain = converted and not model.dequantize
    return FetchRequest(model.model_id, model.layer_request, model.revision, slice=model.slice, refuse_quantized=plain)


def check_own_code(model: HubModel) -> None:
    """Raise RemoteCodeError unless an entry says which own code its model runs, and where."""
    if not model.trust_remote_code:
        return
    if not model.code_environment:
        raise RemoteCodeError(
            f"[{model.name}] trust_remote_code: hub-tests does not run code that comes with a model beside the judge; "
            "name code_environment, in whose sandbox it runs, "
            f"or drop the key if transformers itself has the architecture of {model.model_id}"
        )
    if not model.code_path and not model.code_revision:
        raise RemoteCodeError(
            f"[{model.name}] trust_remote_code: which code is not said; name code_revision, the full commit of "
            f"{model.model_id} that has it, or code_path, a directory of the subject's checkout"
        )


def fetch_own_code(model: HubModel, settings: Settings) -> Path | None:
    """Return the directory of an entry's Python files from the Hub, or None."""
    return fetch_code(model.model_id, model.code_revision, settings).path if model.code_revision else None


def fetch_checkpoints(
    models: Sequence[HubModel],
    settings: Settings,
    *,
    layers: LayerRequest | None = None,
    part: Slice | None = None,
    progress: Callable[[str, Progress], None] | None = None,
) -> FetchResults:
    """Fetch a checkpoint for each model, all within one deadline.

    An error of one does not stop the others.
    """
    ends = time.monotonic() + settings.network.deadline
    checkpoints: dict[str, Checkpoint] = {}
    errors: dict[str, HubTestsError] = {}
    code: dict[str, FetchedCode] = {}
    for model in models:
        tick = None if progress is None else lambda state, name=model.name: progress(name, state)
        try:
            request = make_fetch_request(override_part(model, layers, part))
            if model.code_revision:
                code[model.name] = fetch_code(model.model_id, model.code_revision, settings)
            checkpoints[model.name] = fetch(request, _set_deadline(settings, ends), progress=tick)
        except HubTestsError as error:
            errors[model.name] = error
    return FetchResults(checkpoints, errors, code)


def _set_deadline(settings: Settings, ends: float) -> Settings:
    """Return the settings for a fetch that must end at the monotonic time `ends`."""
    left = max(ends - time.monotonic(), NETWORK_BOUNDS["deadline"][0])
    return replace(settings, network=replace(settings.network, deadline=left))


def format_checkpoints(checkpoints: Mapping[str, Checkpoint]) -> str:
    """Return the fetched checkpoints as the JSON that `hub-tests fetch --json` prints."""
    return json.dumps(_to_rows(checkpoints), indent=2)


def write_checkpoints(results: FetchResults, path: Path) -> None:
    """Write `checkpoints.json`, which `--checkpoints` reads."""
    errors = [_format_error(name, error) for name, error in results.errors.items()]
    path.write_text(json.dumps([*_to_rows(results.checkpoints), *errors], indent=2), encoding="utf-8")


def read_checkpoints(path: Path | None) -> FetchResults:
    """Read `checkpoints.json`; None means that nothing was fetched. Raises RequestError for any other text."""
    if path is None:
        return FetchResults()
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--checkpoints {path}: expected what `hub-tests fetch --json` printed: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"--checkpoints {path}: expected a list of records, as `hub-tests fetch --json` prints it")
    named = {str(row.pop("name", "")): row for row in rows}
    return FetchResults(
        {
            name: read_dict(Checkpoint, row, what=f"--checkpoints {path}")
            for name, row in named.items()
            if "error" not in row
        },
        {name: _read_error(row) for name, row in named.items() if "error" in row},
    )


def _to_rows(checkpoints: Mapping[str, Checkpoint]) -> list[dict[str, Any]]:
    return [{"name": name, **to_dict(checkpoint)} for name, checkpoint in checkpoints.items()]


def _format_error(name: str, error: HubTestsError) -> dict[str, Any]:
    limit: dict[str, Any] = {error.failure_class: True} if isinstance(error, OwnLimitError) else {}
    request = {"request": True} if isinstance(error, RequestError) else {}
    return {"name": name, "gated": isinstance(error, GatedError), **limit, **request, "error": str(error)}


def _read_error(row: Mapping[str, Any]) -> HubTestsError:
    """Return the error of a model that could not be fetched. It never blames the subject."""
    kinds: dict[str, type[HubTestsError]] = {"gated": GatedError}
    limits = (NotTruncatableError, RemoteCodeError, QuantizedError)
    kinds |= {kind.failure_class: kind for kind in limits} | {"request": RequestError}
    kind = next((kind for key, kind in kinds.items() if row.get(key)), InfrastructureError)
    return kind(str(row["error"]))
