"""Fast-LLM's forward pass in layouts against its own in one process, where there is a Fast-LLM."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from ci.errors import UnsupportedError
from ci.layouts import LAYOUTS
from ci.subjects.base import ConvertRequest, TraceRequest
from ci.subjects.fast_llm.layout_trace import _ForwardRun
from ci.subjects.forward import Inputs
from ci.subjects.rank_process import Rank
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.tiny import relative_error, save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from ci.subjects.base import Subject


@pytest.mark.parametrize(
    ("name", "layouts"), [("llama", ("stp2", "sdp2", "stp2_pp2")), ("mixtral", ("dp2_tp2", "split2"))]
)
def test_every_tensor_is_that_of_one_process(
    name: str, layouts: tuple[str, ...], fast_llm: Subject, tmp_path: Path
) -> None:
    source, converted = save_model(name, tmp_path / name, vocab_size=212), tmp_path / "converted"
    fast_llm.convert(ConvertRequest(str(source), str(converted), name))
    inputs = save_inputs(tmp_path / "inputs.safetensors", padding=(0, 3, 5), length=23)
    fast_llm.trace(trace_request(converted, inputs, tmp_path / "plain", capture="all"))
    plain = TraceReader(tmp_path / "plain")
    for layout in layouts:
        for feed in (None, str(plain.path)):
            output = tmp_path / f"{layout}-{feed is not None}"
            variant = {"layout": layout}
            result = fast_llm.trace(trace_request(converted, inputs, output, capture="all", variant=variant, feed=feed))
            assert (result.ran["layout"], result.not_captured) == (layout, ())
            trace = TraceReader(output)
            assert set(trace) == set(plain)
            assert max(relative_error(trace.tensor(each), plain.tensor(each)) for each in plain) < 5e-6


def test_a_layout_of_ranks_that_do_not_fit_is_refused(fast_llm: Subject, tmp_path: Path) -> None:
    source, converted = save_model("llama", tmp_path / "llama"), tmp_path / "converted"
    fast_llm.convert(ConvertRequest(str(source), str(converted), "llama"))
    inputs = save_inputs(tmp_path / "inputs.safetensors")
    with pytest.raises(UnsupportedError, match=r"211 \(vocabulary\) is not divisible by 2 tensor ranks"):
        fast_llm.trace(trace_request(converted, inputs, tmp_path / "tp2", variant={"layout": "tp2"}))
    with pytest.raises(UnsupportedError, match="expert parallelism"):
        fast_llm.trace(trace_request(converted, inputs, tmp_path / "ep2", variant={"layout": "ep2"}))


def make_run(layout: str) -> _ForwardRun:
    request = TraceRequest("checkpoint", "inputs", "output")
    return _ForwardRun(Rank(0, 1, Path(), 1.0), request, Path(), LAYOUTS[layout])


def test_rows_are_dealt_to_data_ranks_in_rounds_and_the_last_is_repeated() -> None:
    def list_rounds(layout: str, data_rank: int, rows: int) -> list[list[int]]:
        model = SimpleNamespace(config=SimpleNamespace(distributed=SimpleNamespace(batch_data_rank=data_rank)))
        return make_run(layout)._list_rounds(model, Inputs(torch.zeros(rows, 4, dtype=torch.int64)))

    assert list_rounds("single", 0, 2) == [[0], [1]]
    assert [list_rounds("dp2", rank, 3) for rank in (0, 1)] == [[[0], [2]], [[1], [2]]]
    assert [list_rounds("dp2_accumulate2", rank, 5) for rank in (0, 1)] == [[[0, 2], [4, 4]], [[1, 3], [4, 4]]]
