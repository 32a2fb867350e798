"""Runs Fast-LLM's forward pass in a layout through its schedule runner, and joins the ranks' parts into one trace.

Fast-LLM's wrapper for Hugging Face serves tensor parallelism alone; its runner serves every layout. Each row of the
batch is a document of its own, so that positions begin at 0 in each.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ci.layouts import LAYOUT_AXIS, Layout
from ci.subjects.base import TraceRequest
from ci.subjects.fast_llm.config import (
    choose_compiler,
    compile_stance,
    loops_over_experts,
    make_variant_updates,
    read_model_config,
)
from ci.subjects.fast_llm.errors import translate_errors
from ci.subjects.fast_llm.hidden_states import name_hidden_states, sort_routing
from ci.subjects.fast_llm.hooks import read_implementations
from ci.subjects.fast_llm.layout_config import find_layout, make_layout_updates, round_up_predictions
from ci.subjects.fast_llm.layout_join import join_parts, slice_block_input
from ci.subjects.fast_llm.mixers import find_mixture, list_operations
from ci.subjects.fast_llm.rank_model import build_model, is_absent, open_process_groups
from ci.subjects.fast_llm.schedule import ScheduledModel, make_schedule_config
from ci.subjects.fast_llm.training import check_devices
from ci.subjects.forward import (
    DTYPES,
    Inputs,
    TeacherForcing,
    TraceRecorder,
    exact_arithmetic,
    measure_cost,
    read_inputs,
)
from ci.subjects.rank_process import Rank
from ci.subjects.ranks import run_ranks
from ci.subjects.trace_files import TraceWriter
from ci.tensor_names import ROUTER_LOGITS, execution_order, scope_of, tensor_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.subjects.base import TraceResult

SECONDS = 600.0
"""The limit of a forward pass; the worker's own is above it or ends it sooner."""


@dataclass(frozen=True)
class ForwardPart:
    """What a rank says of its forward pass: its places, what ran, what it can capture, and the cost."""

    sequence_data: int
    tensor: int
    data: int
    ran: Mapping[str, str]
    expected: tuple[str, ...]
    seconds: float
    peak_device_bytes: int


def run_layout_trace(request: TraceRequest) -> TraceResult:
    """Run the forward pass on the ranks of the request's layout and write one trace."""
    layout, inputs = find_layout(request.variant[LAYOUT_AXIS]), read_inputs(Path(request.inputs))
    check_devices(layout, request.device)
    config = read_model_config(Path(request.checkpoint))
    inputs.check_vocabulary(config.base_model.embeddings.vocab_size)
    writer = TraceWriter(Path(request.output))
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=writer.path.parent) as scratch:
        parts: list[ForwardPart] = run_ranks(
            run_forward_rank, layout.ranks, request, Path(scratch), seconds=SECONDS, fork=request.device == "cpu"
        )
        recorder = TraceRecorder(writer, inputs, DTYPES[request.dtype])
        _write_scopes(recorder, layout, parts, Path(scratch))
    return _finish(writer, recorder, request, parts)


def _finish(
    writer: TraceWriter, recorder: TraceRecorder, request: TraceRequest, parts: list[ForwardPart]
) -> TraceResult:
    ran = {axis: name for part in parts for axis, name in part.ran.items()}
    expected = sorted({name for part in parts for name in part.expected}, key=execution_order)
    return writer.finish(
        ran={**ran, LAYOUT_AXIS: request.variant[LAYOUT_AXIS]},
        dtype=request.dtype,
        device=request.device,
        seconds=max(part.seconds for part in parts),
        peak_device_bytes=max(part.peak_device_bytes for part in parts),
        not_captured=tuple(name for name in expected if name not in set(recorder.written)),
    )


def _write_scopes(recorder: TraceRecorder, layout: Layout, parts: list[ForwardPart], scratch: Path) -> None:
    """Join every tensor of every row, scope by scope."""
    names = sorted({_parse(file)[0] for file in scratch.iterdir()}, key=execution_order)
    scopes = dict.fromkeys(scope_of(name) for name in names)
    for scope in scopes:
        for name in (name for name in names if scope_of(name) == scope):
            recorder.record(name, _join_rows(name, recorder.inputs, layout, parts, scratch))
        recorder.flush()


def _join_rows(name: str, inputs: Inputs, layout: Layout, parts: list[ForwardPart], scratch: Path) -> Tensor:
    """Return a tensor (B, T, …) of all rows; positions of padding are 0."""
    batch, length = inputs.ids.shape
    rows: list[Tensor] = []
    for row in range(batch):
        by_place = {
            (part.sequence_data, part.tensor): list(load_file(file).values())
            for rank, part in enumerate(parts)
            if part.data == row % layout.data and (file := _name_file(scratch, name, row, rank)).is_file()
        }
        padding = inputs.count_padding(row)
        tokens = join_parts(name, by_place, layout)[: length - padding]
        rows.append(torch.cat([tokens.new_zeros(padding, *tokens.shape[1:]), tokens]))
    return torch.stack(rows)


def _name_file(scratch: Path, name: str, row: int, rank: int) -> Path:
    return scratch / f"{name}@{row}@{rank}.safetensors"


def _parse(file: Path) -> tuple[str, str, str]:
    name, row, rank = file.stem.split("@")
    return name, row, rank


def run_forward_rank(rank: Rank, request: TraceRequest, directory: Path) -> ForwardPart:
    """Run one rank's forward pass; its parts of the tensors go to `directory`."""
    layout = find_layout(request.variant[LAYOUT_AXIS])
    request = replace(request, variant={axis: n for axis, n in request.variant.items() if axis != LAYOUT_AXIS})
    with (
        translate_errors(f"trace of {request.checkpoint} in layout {layout.name}"),
        exact_arithmetic(),
        compile_stance(choose_compiler(request)),
        open_process_groups(rank, request.device),
    ):
        return _ForwardRun(rank, request, directory, layout).run()


@dataclass
class _ForwardRun:
    rank: Rank
    request: TraceRequest
    directory: Path
    layout: Layout
    _captured: dict[str, list[Tensor]] = field(default_factory=dict)

    def run(self) -> ForwardPart:
        """Load the model, run the rows in rounds, and keep what this rank holds."""
        model, inputs = self._load(), read_inputs(Path(self.request.inputs))
        blocks = {i: block for i, block in enumerate(model.base_model.decoder) if not is_absent(block)}
        with measure_cost(str(model.distributed.device)) as cost, ExitStack() as stack, torch.inference_mode():
            self._install(model, blocks, inputs, stack)
            self._run_rounds(model, inputs)
        every = self.request.capture == "all"
        places = model.config.distributed
        return ForwardPart(
            places.sequence_data_rank,
            places.tensor_rank,
            places.batch_data_rank,
            {**read_implementations(list(blocks.values())), "compile": choose_compiler(self.request)},
            tuple(tensor_name(i, n) for i, block in blocks.items() for n in list_operations(block)) if every else (),
            cost.seconds,
            cost.peak_device_bytes,
        )

    def _load(self) -> Any:
        from fast_llm.engine.checkpoint.config import CheckpointLoadConfig, FastLLMCheckpointFormat
        from fast_llm.engine.multi_stage.config import StageMode

        request, path = self.request, Path(self.request.checkpoint)
        config = read_model_config(path)
        updates = {
            **make_layout_updates(self.layout, self.rank, request.device),
            **make_variant_updates(request, config),
            ("distributed", "compute_dtype"): request.dtype,
        }
        mode = StageMode.training if loops_over_experts(request, config) else StageMode.inference
        model = build_model(self.layout, updates, path, mode=mode, optimizer_states=False)
        model.load_checkpoint(CheckpointLoadConfig(path=path, format=FastLLMCheckpointFormat, optimizer_state=False))
        return model

    def _install(self, model: Any, blocks: Mapping[int, Any], inputs: Inputs, stack: ExitStack) -> None:
        """Record routers' logits, whose own hidden state fails its shape check, and replace block inputs."""
        feed = TeacherForcing.of_request(self.request)
        for index, block in blocks.items():
            router = getattr(find_mixture(block), "router", None)
            if router is not None and self.request.capture == "all":
                keep = self._captured.setdefault(tensor_name(index, ROUTER_LOGITS), []).append
                hook = router.register_forward_hook(lambda _, __, logits, keep=keep: keep(logits.detach()))
                stack.callback(hook.remove)
            if feed is not None:
                original = block.forward
                block.forward = self._make_forced(model, index, original, feed, inputs)
                stack.callback(block.__dict__.pop, "forward", None)
        if feed is not None:
            self._force_head(model, feed, inputs, stack)

    def _force_head(self, model: Any, feed: TeacherForcing, inputs: Inputs, stack: ExitStack) -> None:
        head, count = model.base_model.head, len(list(model.base_model.decoder))
        if not is_absent(head):
            head.forward = self._make_forced(model, count, head.forward, feed, inputs)
            stack.callback(head.__dict__.pop, "forward", None)

    def _make_forced(
        self, model: Any, index: int, forward: Callable[..., Any], feed: TeacherForcing, inputs: Inputs
    ) -> Callable[..., Any]:
        """Return a block's forward whose input is that of the expected trace: this rank's part of it."""
        calls: Iterator[tuple[int, int]] = self._iterate_calls(model, inputs)
        places = model.config.distributed

        def run(input_: Any, *args: Any, **rest: Any) -> Any:
            if input_.device.type == "meta":
                return forward(input_, *args, **rest)
            row, part = next(calls)
            padding = inputs.count_padding(row)
            full = feed.select_row(row, padding).read_block_input(index)[0]
            length = self._count_tokens(inputs)
            full = torch.cat([full, full.new_zeros(length - len(full), full.shape[1])])
            where = (places.sequence_data_rank, places.tensor_rank)
            cut = slice_block_input(full, (part, self.layout.micro_sequences), self.layout, where)
            return forward(cut.to(input_.device, input_.dtype), *args, **rest)

        return run

    def _iterate_calls(self, model: Any, inputs: Inputs) -> Iterator[tuple[int, int]]:
        """Yield the row and the micro-sequence of each call of one block, in the order of the schedule."""
        for rows in self._list_rounds(model, inputs):
            for row in rows:
                yield from ((row, part) for part in range(self.layout.micro_sequences))

    def _list_rounds(self, model: Any, inputs: Inputs) -> list[list[int]]:
        """List the rows of this data rank in rounds of as many micro-batches as the layout has.

        Ranks must run in step, so the last row is run again where rows are missing.
        """
        count, data, batch = self.layout.micro_batches, self.layout.data, len(inputs.ids)
        first = model.config.distributed.batch_data_rank
        rounds = -(-batch // (count * data))
        return [[min(first + data * (r * count + m), batch - 1) for m in range(count)] for r in range(rounds)]

    def _count_tokens(self, inputs: Inputs) -> int:
        return round_up_predictions(inputs.ids.shape[1], self.layout)

    def _run_rounds(self, model: Any, inputs: Inputs) -> None:
        from fast_llm.engine.distributed.config import PhaseType

        preprocessing = model.get_preprocessing_config(PhaseType.inference, self.layout.micro_sequences)
        config, length = make_schedule_config(self.layout), self._count_tokens(inputs)
        runner = ScheduledModel.prepare(model, config, preprocessing, length)
        for rows in self._list_rounds(model, inputs):
            batches = [self._make_inputs(inputs, row, preprocessing) for row in rows]
            runner.run_step(batches)
            self._write_round(model, rows, batches)

    def _make_inputs(self, inputs: Inputs, row: int, preprocessing: Any) -> list[Any]:
        from fast_llm.data.document.language_model import LanguageModelBatch, LanguageModelDocument

        document = LanguageModelDocument(tokens=inputs.select_row(row).ids[0])
        batch = LanguageModelBatch.from_documents([document], pad_to_size=self._count_tokens(inputs))
        model_inputs = list(batch.get_model_inputs(preprocessing))
        for each in model_inputs:
            each.output_hidden_states.add(re.compile(".*"))
        return model_inputs

    def _write_round(self, model: Any, rows: list[int], batches: list[list[Any]]) -> None:
        """Write what this rank holds of each row; a row that was run again is written again."""
        wanted = name_hidden_states(model.base_model, everything=self.request.capture == "all")
        for index, (row, batch) in enumerate(zip(rows, batches, strict=True)):
            states: dict[str, list[Tensor]] = {}
            for model_input in batch:
                for name, (_, tensor) in model_input.hidden_states.items():
                    if ours := wanted.get(name):
                        states.setdefault(ours, []).append(tensor.detach())
            parts = self.layout.micro_sequences
            states |= {name: kept[index * parts :][:parts] for name, kept in self._captured.items()}
            for name, tensors in sort_routing(states).items():
                file = _name_file(self.directory, name, row, self.rank.number)
                save_file({str(i): tensor.cpu().contiguous().clone() for i, tensor in enumerate(tensors)}, file)
        for kept in self._captured.values():
            kept.clear()
