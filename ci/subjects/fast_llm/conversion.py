"""Conversions between Hugging Face's directories and Fast-LLM's own format, on the CPU, through its public API.

An import is saved in the dtype of its source where the weights keep their bits in it: half the bytes of float32, in
which Fast-LLM converts and saves unless told otherwise, and the same numbers.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from ci.errors import RequestError
from ci.subjects.fast_llm.config import find_format, find_model_class
from ci.subjects.fast_llm.errors import translate_errors
from ci.subjects.memory import list_stored_dtypes
from ci.subjects.written_files import list_written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ci.subjects.base import ConvertRequest, ConvertResult, ExportRequest

FAST_LLM = "fast_llm"
NARROW_DTYPES = {frozenset({"BF16"}): torch.bfloat16, frozenset({"F16"}): torch.float16}
"""The dtypes of a source, as safetensors names them → the dtype in which its import is saved."""
PIECE = 2**24
"""Weights that one thread checks at a time: 64 MiB."""
FILE_WEIGHTS = 2**26
"""Weights after which Fast-LLM begins another file of an import, so that several are written at the same time."""
WRITERS = 8


def import_checkpoint(request: ConvertRequest) -> ConvertResult:
    """Convert a Hugging Face directory to Fast-LLM's own format."""
    return _write_directory(request, (request.checkpoint_format, FAST_LLM), _import)


def export_checkpoint(request: ExportRequest) -> ConvertResult:
    """Convert a Fast-LLM checkpoint to a Hugging Face directory in `request.dtype`."""
    return _write_directory(request, (FAST_LLM, request.checkpoint_format), _export)


def keep_bits(weights: Tensor, dtype: torch.dtype) -> bool:
    """Return whether weights, none of them NaN, have the same bits after a cast to `dtype` and back."""
    if weights.dtype != torch.float32:
        return weights.dtype == dtype
    pieces = [weights[start : start + PIECE] for start in range(0, len(weights), PIECE)]
    with ThreadPoolExecutor() as pool:
        return all(pool.map(partial(_keep_bits, dtype=dtype), pieces))


def _keep_bits(piece: Tensor, dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:  # the upper half of a float32's bits; NumPy looks at them ten times as fast as a cast
        return not int(np.bitwise_or.reduce(piece.numpy().view(np.uint32))) & 0xFFFF
    return torch.equal(piece.to(dtype).to(torch.float32).view(torch.int32), piece.view(torch.int32))


def _write_directory(request: ConvertRequest | ExportRequest, formats: tuple[str, str], convert: Any) -> ConvertResult:
    """Convert into a directory beside the target, then rename it: a target that exists is complete."""
    source, target = Path(request.source), Path(request.target)
    if target.exists():
        raise RequestError(f"{target} exists; name a directory that does not")
    part = target.with_name(f".{target.name}.part")
    started = time.perf_counter()
    try:
        with translate_errors(f"{formats[0]} to {formats[1]}"):
            convert(request, source, part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return list_written(target, started)


def _import(request: ConvertRequest, source: Path, target: Path) -> None:
    """Load and save as Fast-LLM's converter does, which saves before anybody can look at the weights."""
    from fast_llm.engine.checkpoint.config import CheckpointLoadConfig, CheckpointSaveConfig
    from fast_llm.engine.multi_stage.config import StageMode

    model = find_model_class(request.model_config)
    load, store = (find_format(model, name) for name in (request.checkpoint_format, FAST_LLM))
    dtype = NARROW_DTYPES.get(list_stored_dtypes(source))
    if dtype is None:
        _run_converter(model, CheckpointLoadConfig(path=source, format=load), target, store, {})
        return
    loaded = model.get_model_class().from_pretrained(
        CheckpointLoadConfig(path=source, format=load), {("distributed", "use_cuda"): False}, mode=StageMode.weights
    )
    narrow = keep_bits(loaded.get_shard("weights"), dtype)
    save: dict[str, Any] = {"data_type": str(dtype).removeprefix("torch.")} if narrow else {}
    target.mkdir()
    with save_in_threads():
        loaded.save_checkpoint(
            CheckpointSaveConfig(path=target, format=store, parameters_per_file=FILE_WEIGHTS, **save)
        )
    (target / "ok").touch()  # its converter's sign of a whole checkpoint


@contextmanager
def save_in_threads() -> Iterator[None]:
    """Let safetensors' `save_file` write in other threads; all files are there after the block, or it raises.

    Fast-LLM writes one file after the other, each by a single thread that copies to the system's cache.
    """
    with ThreadPoolExecutor(WRITERS) as pool:
        save_file, written = safetensors.torch.save_file, []

        def submit(*args: Any, **kwargs: Any) -> None:
            written.append(pool.submit(save_file, *args, **kwargs))

        safetensors.torch.save_file = submit
        try:
            yield
        finally:
            safetensors.torch.save_file = save_file
        for file in written:
            file.result()


def _export(request: ExportRequest, source: Path, target: Path) -> None:
    from fast_llm.engine.checkpoint.config import CheckpointLoadConfig

    model = find_model_class(request.model_config)
    load, store = (find_format(model, name) for name in (FAST_LLM, request.checkpoint_format))
    _run_converter(model, CheckpointLoadConfig(path=source, format=load), target, store, {"data_type": request.dtype})


def _run_converter(model: Any, load: Any, target: Path, store: Any, save: dict[str, Any]) -> None:
    from fast_llm.engine.checkpoint.config import CheckpointSaveConfig
    from fast_llm.engine.checkpoint.convert import ConvertConfig

    output = CheckpointSaveConfig(path=target, format=store, **save)
    ConvertConfig(model=model, input=load, output=output, use_cpu=True).run()
