"""What a fetch of each model would download, from listings, indices and headers alone: no tensor is requested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ci.errors import HubTestsError
from ci.hub.builder import inspect_model, list_needed_files
from ci.hub.remote import HubClient
from ci.hub.slices import WHOLE, Slice
from ci.hub.weights import find_kept_sources, place_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.hub.fetch import FetchRequest
    from ci.hub.layers import LayerRequest
    from ci.hub.weights import RemoteModel
    from ci.settings import Settings


@dataclass(frozen=True)
class BytePlan:
    """Bytes of one model's tensors: of the whole repository, of the kept layers, and of their slice.

    `layers` of `layers_upstream` are kept. `received` counts the bytes of the listing, the index and the headers.
    `problem` says why nothing is known; then all counts are 0.
    """

    name: str
    model_id: str
    slice: str
    layers: int = 0
    layers_upstream: int = 0
    whole: int = 0
    kept: int = 0
    sliced: int = 0
    received: int = 0
    problem: str = ""


def plan_bytes(requests: Iterable[tuple[str, FetchRequest]], settings: Settings) -> tuple[BytePlan, ...]:
    """Plan the fetch of each request, by its name. An error of one model does not stop the others."""
    return tuple(_plan_model(name, request, settings) for name, request in requests)


def _plan_model(name: str, request: FetchRequest, settings: Settings) -> BytePlan:
    empty = BytePlan(name, request.model_id, str(request.slice))
    hub = HubClient(settings)
    try:
        repository = hub.get_repository(request.model_id, request.revision)
        model = inspect_model(hub, repository, request.layers, request.slice)
        whole = sum(repository.get_file(file).size for file in model.weights.files)
        planned = replace(empty, whole=whole, layers_upstream=model.config.depth)
        if model.weights.is_torch_bin:
            planned = _plan_torch_bin(planned, model, request.layers)
        else:
            planned = _plan_safetensors(planned, model, request.layers, request.slice)
    except HubTestsError as problem:
        return replace(empty, problem=str(problem))
    return replace(planned, received=hub.received)


def _plan_safetensors(planned: BytePlan, model: RemoteModel, layers: LayerRequest, part: Slice) -> BytePlan:
    sources = find_kept_sources(model, layers)
    kept = place_tensors(replace(model, slice=WHOLE), sources).size
    sliced = place_tensors(replace(model, slice=part), sources).size
    return replace(planned, layers=sources.choice.layers, kept=kept, sliced=sliced)


def _plan_torch_bin(planned: BytePlan, model: RemoteModel, layers: LayerRequest) -> BytePlan:
    """Count whole `.bin` files: their tensors cannot be requested one by one."""
    needed = sum(model.repository.get_file(file).size for file in list_needed_files(model, layers))
    count = len(layers) if isinstance(layers, tuple) else 0 if layers == "auto" else layers
    return replace(planned, layers=count, kept=needed, sliced=needed)
