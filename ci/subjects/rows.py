"""Each row of a batch alone, without its padding: traces of their own beside the output, put together by name."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.subjects.base import TraceResult
from ci.subjects.forward import Feed, Inputs
from ci.subjects.tracefile import TraceReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The traces of a batch's rows, and what tracing each answered."""

    inputs: Inputs
    traces: tuple[TraceReader, ...]
    results: tuple[TraceResult, ...]

    def stacked(self, name: str) -> Tensor:
        """(B, T, …) from B rows (1, T - padding, …), zeros where the padding was."""
        first = self.traces[0].tensor(name)
        stacked = first.new_zeros(len(self.traces), self.inputs.ids.shape[1], *first.shape[2:])
        for index, row in enumerate(self.traces):
            stacked[index, self.inputs.padding(index) :] = row.tensor(name)[0]
        return stacked


@contextmanager
def each_row(
    output: Path, inputs: Inputs, feed: Feed | None, trace: Callable[[Path, Inputs, Feed | None], TraceResult]
) -> Iterator[Rows]:
    """Trace row by row with `trace(output, inputs, feed)`; the rows' traces live as long as the context."""
    output.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.rows.", dir=output.parent))
    try:
        paths = [directory / str(row) for row in range(len(inputs.ids))]
        results = [
            trace(path, inputs.row(row), feed and feed.of_row(row, inputs.padding(row)))
            for row, path in enumerate(paths)
        ]
        yield Rows(inputs, tuple(map(TraceReader, paths)), tuple(results))
    finally:
        shutil.rmtree(directory)
