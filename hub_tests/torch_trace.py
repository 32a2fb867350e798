"""Writes the trace of a PyTorch model whose blocks are modules: an adapter names the modules, hooks do the rest.

Needs torch and safetensors. A framework that is built otherwise uses the parts: `TraceRecorder` and `TraceWriter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.subjects.forward import (
    DTYPES,
    Inputs,
    TeacherForcing,
    TraceRecorder,
    exact_arithmetic,
    measure_cost,
    read_inputs,
)
from ci.subjects.image_trace import ImageRecorder
from ci.subjects.trace_files import TraceWriter
from ci.tensor_names import (
    EMBEDDINGS,
    FINAL_NORM,
    LOGITS,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    block_name,
    execution_order,
    is_block_level,
    list_block_operations,
    tensor_name,
)

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from ci.subjects.base import TraceRequest, TraceResult

__all__ = [
    "DTYPES",
    "ImageRecorder",
    "Inputs",
    "ModelModules",
    "TeacherForcing",
    "TraceRecorder",
    "TraceWriter",
    "exact_arithmetic",
    "measure_cost",
    "read_inputs",
    "trace_modules",
]


@dataclass(frozen=True)
class ModelModules:
    """The modules of a model whose outputs a trace records.

    `operations` maps an operation's name (`docs/adapters.md`: "norm_1", "mixer", "mlp", …) to the path
    of a module inside each block; `operation_inputs` likewise, where the module's input is what the name means
    ("mixer.context" is the input of the output projection). Of a mixture of experts `router` is the path of the module
    whose output are the router's logits, (tokens, experts) or (B, T, experts); the `experts_per_token` with the largest
    ones count as chosen, with the softmax over them as scores (https://arxiv.org/abs/2401.04088). Each block's first
    argument is its hidden state (B, T, hidden), and so is its output, or its first output.
    """

    embeddings: torch.nn.Module
    blocks: tuple[torch.nn.Module, ...]
    final_norm: torch.nn.Module
    operations: Mapping[str, str] = field(default_factory=dict)
    operation_inputs: Mapping[str, str] = field(default_factory=dict)
    router: str = ""
    experts_per_token: int = 0


def trace_modules(
    request: TraceRequest,
    modules: ModelModules,
    forward: Callable[[Tensor], Tensor],
    *,
    ran: Mapping[str, str],
    load_seconds: float = 0.0,
) -> TraceResult:
    """Run `forward`, int64 (1, T) → logits (1, T, vocab), over each row without its padding, and write the trace.

    The rows run one by one, so the model needs neither a mask nor positions. `ran` is what was observed to run.
    """
    inputs, dtype = read_inputs(Path(request.inputs)), DTYPES[request.dtype]
    recorder = TraceRecorder(writer := TraceWriter(Path(request.output)), inputs, dtype)
    rows = _Rows(inputs, request.capture == "all")
    with exact_arithmetic(), torch.inference_mode(), measure_cost(request.device) as cost:
        for row in range(len(inputs.ids)):
            part = inputs.select_row(row)
            feed = TeacherForcing.of_request(request)
            hooks = _Hooks(modules, rows, row, feed.select_row(row, inputs.count_padding(row)) if feed else None)
            with hooks.installed():
                rows.keep(row, LOGITS, forward(part.ids.to(request.device)))
    missing = rows.write(recorder, len(modules.blocks), experts=bool(modules.router))
    return writer.finish(
        ran=ran,
        dtype=request.dtype,
        device=request.device,
        seconds=cost.seconds,
        load_seconds=load_seconds,
        peak_device_bytes=cost.peak_device_bytes,
        not_captured=missing,
    )


@dataclass
class _Rows:
    """The recorded tensors of each row, by name; at the end they are padded and joined to one batch."""

    inputs: Inputs
    everything: bool
    tensors: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def keep(self, row: int, name: str, tensor: Tensor) -> None:
        """Keep a copy of a row's tensor (1, T, …) on the CPU: the model may change it later."""
        if self.everything or is_block_level(name):
            self.tensors.setdefault(name, {})[row] = tensor.detach().to("cpu", copy=True)

    def write(self, recorder: TraceRecorder, blocks: int, *, experts: bool) -> tuple[str, ...]:
        """Write every scope in execution order, and return the names of what was not captured."""
        expected = _list_expected(blocks, experts=experts) if self.everything else ()
        for name in sorted(self.tensors, key=execution_order):
            recorder.record(name, self._join(name), copy=False)
            if is_block_level(name) and name != FINAL_NORM:
                recorder.flush()
        return tuple(name for name in expected if name not in self.tensors)

    def _join(self, name: str) -> Tensor:
        rows = [self.tensors[name][row] for row in range(len(self.inputs.ids))]
        length = self.inputs.ids.shape[1]
        return torch.cat([torch.cat([row.new_zeros(1, length - row.shape[1], *row.shape[2:]), row], 1) for row in rows])


@dataclass
class _Hooks:
    """Records the outputs of a model's modules for one row, and replaces block inputs where a trace is fed."""

    modules: ModelModules
    rows: _Rows
    row: int
    feed: TeacherForcing | None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the hooks for the length of the context."""
        handles = list(self._install())
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _install(self) -> Iterator[RemovableHandle]:
        yield self._record_output(self.modules.embeddings, EMBEDDINGS)
        for index, block in enumerate(self.modules.blocks):
            if self.feed:
                yield self._replace_input(block, index)
            yield self._record_output(block, block_name(index))
            for operation, path in self.modules.operations.items():
                yield self._record_output(block.get_submodule(path), tensor_name(index, operation))
            for operation, path in self.modules.operation_inputs.items():
                yield self._record_input(block.get_submodule(path), tensor_name(index, operation))
            if self.modules.router:
                yield self._record_router(block.get_submodule(self.modules.router), index)
        if self.feed:
            yield self._replace_input(self.modules.final_norm, len(self.modules.blocks))
        yield self._record_output(self.modules.final_norm, FINAL_NORM)

    def _record_output(self, module: torch.nn.Module, name: str) -> RemovableHandle:
        def record(_module: Any, _arguments: Any, output: Any) -> None:
            self.rows.keep(self.row, name, output[0] if isinstance(output, tuple) else output)

        return module.register_forward_hook(record)

    def _record_input(self, module: torch.nn.Module, name: str) -> RemovableHandle:
        def record(_module: Any, arguments: tuple[Any, ...]) -> None:
            self.rows.keep(self.row, name, arguments[0])

        return module.register_forward_pre_hook(record)

    def _record_router(self, module: torch.nn.Module, block: int) -> RemovableHandle:
        def record(_module: Any, _arguments: Any, output: Any) -> None:
            logits = (output[0] if isinstance(output, tuple) else output).reshape(1, -1, output.shape[-1])
            chosen, experts = logits.topk(self.modules.experts_per_token)
            self.rows.keep(self.row, tensor_name(block, ROUTER_LOGITS), logits)
            self.rows.keep(self.row, tensor_name(block, TOP_EXPERTS), experts)
            self.rows.keep(self.row, tensor_name(block, ROUTER_SCORES), chosen.float().softmax(-1).to(logits.dtype))

        return module.register_forward_hook(record)

    def _replace_input(self, module: torch.nn.Module, block: int) -> RemovableHandle:
        def replace(_module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            assert self.feed is not None  # noqa: S101 (narrowing only)
            return (self.feed.read_block_input(block), *arguments[1:])

        return module.register_forward_pre_hook(replace)


def _list_expected(blocks: int, *, experts: bool) -> tuple[str, ...]:
    operations = list_block_operations(experts=experts)
    return tuple(tensor_name(index, operation) for index in range(blocks) for operation in operations)
