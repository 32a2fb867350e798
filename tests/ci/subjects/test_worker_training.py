"""Training through a worker: a layout's ranks run in its sandbox, and what it wrote is taken as hostile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.open_subject import open_subject
from ci.subjects.training import list_step_files
from tests.ci.subjects.reference.training_runs import make_request

if TYPE_CHECKING:
    from ci.subjects.training import Trainable


def open_worker() -> Any:
    """Return a worker of the reference in this interpreter."""
    return open_subject("reference", python=Path(sys.executable), timeout=120.0)


def test_a_layout_trains_in_a_worker(tmp_path: Path) -> None:
    request = make_request(tmp_path, "out", layout="tp2", save=True)
    with open_worker() as subject:
        worker: Trainable = subject
        result = worker.train(request)
        assert [rank.groups for rank in result.ranks] == [{"tensor": (0, 1)}] * 2
        assert all((tmp_path / "out" / name).is_file() for name in list_step_files(1))
        resumed = make_request(tmp_path, "resumed", resume=str(tmp_path / "out" / "checkpoint"), resume_steps=1)
        assert len(worker.train(resumed).losses) == 1
        with pytest.raises(UnsupportedError, match="layout zero3 is not offered"):
            worker.train(make_request(tmp_path, "refused", layout="zero3"))


def test_a_step_that_was_not_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(tmp_path, "out", steps=1)
    monkeypatch.setattr("ci.subjects.worker_subject.list_step_files", lambda steps: list_step_files(steps + 1))
    with (
        open_worker() as subject,
        pytest.raises(SubjectError, match=r"it wrote no step-2/gradients/model\.safetensors"),
    ):
        subject.train(request)
