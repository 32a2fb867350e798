"""A consumer in a worker and its sandbox: the same answers, and files that cannot be changed any more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ci.consumers.base import ContinueRequest, ScoreRequest
from ci.consumers.open_consumer import open_consumer
from ci.consumers.score_files import read_continuation, read_scores
from ci.consumers.transformers_engine import TransformersEngine
from ci.errors import SubjectError
from ci.subjects.sandbox import choose_isolation
from tests.ci.equivalence.served_faults import FAULTS, plant_fault
from tests.ci.equivalence.served_models import build_served

KEEP = torch.ones(2, 9, dtype=torch.bool)


def test_a_worker_in_a_sandbox_answers_as_in_process(tmp_path: Path) -> None:
    ids = torch.randint(0, 331, KEEP.shape, generator=torch.Generator().manual_seed(2))
    save_file({"input_ids": ids}, tmp_path / "inputs.safetensors")
    checkpoint, inputs = str(build_served("llama", tmp_path / "model")), str(tmp_path / "inputs.safetensors")
    broken = plant_fault(FAULTS["renamed key"], Path(checkpoint), tmp_path / "broken")
    isolation, log = choose_isolation("auto"), tmp_path / "engine.log"
    here = TransformersEngine()
    with open_consumer("transformers", python=Path(sys.executable), timeout=120, log=log, isolation=isolation) as there:
        assert there.describe() == here.describe()
        for engine, name in ((here, "here"), (there, "there")):
            result = engine.score(ScoreRequest(checkpoint, inputs, str(tmp_path / name)))
            assert result.tokens == 16
            more = ContinueRequest(checkpoint, inputs, f"{tmp_path}/{name}-more", tokens=3, stop_ids=(257, 7))
            assert engine.continue_greedily(more).stops == {"257": True, "7": False}
        with pytest.raises(SubjectError, match="tensors are missing"):
            there.score(ScoreRequest(str(broken), inputs, str(tmp_path / "refused")))
        there.release()
    one, other = (read_scores(tmp_path / name, KEEP, 8) for name in ("here", "there"))
    assert torch.allclose(one.logprobs[:, 1:], other.logprobs[:, 1:], atol=1e-5)
    one_more, other_more = (read_continuation(tmp_path / f"{name}-more", 2, 3, 8) for name in ("here", "there"))
    assert torch.equal(one_more.ids, other_more.ids)
    assert "Traceback" in log.read_text()
