from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError, UnsupportedError
from ci.subjects.base import HuggingFaceRunner
from ci.subjects.hugging_face.subject import CODE_VARIABLE, HuggingFaceSubject
from ci.subjects.registry import HUGGING_FACE, SUBJECT_NAMES, create_subject, find_adapter
from ci.subjects.worker_main import call_method
from tests.ci.subjects.own_code import save_code, save_config

if TYPE_CHECKING:
    from pathlib import Path


def test_a_worker_can_run_it_and_it_is_no_subject() -> None:
    assert HUGGING_FACE not in SUBJECT_NAMES
    assert isinstance(create_subject(HUGGING_FACE), HuggingFaceSubject)
    assert find_adapter(HUGGING_FACE).offer.formats == ()
    with pytest.raises(RequestError, match="Choose one of fast_llm, reference"):
        create_subject("hugging face")


def test_its_calls_are_those_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CODE_VARIABLE, str(save_code(tmp_path / "code")))
    subject: Any = create_subject(HUGGING_FACE)
    assert isinstance(create_subject(HUGGING_FACE), HuggingFaceRunner)
    config = save_config(tmp_path / "config")
    answer = call_method(subject, "resolve_config", {"checkpoint": str(config)})
    assert (answer["config"]["vocab_size"], answer["stand_ins"]) == (53, ["chunk_gated_delta_rule"])
    request = {"source": str(config), "target": str(tmp_path / "model"), "dtype": "float32", "seed": 0}
    written = call_method(subject, "write_model", request)
    assert {"config.json", "model.safetensors"} <= set(written["files"])
    assert (tmp_path / "model" / "config.json").read_text() == (config / "config.json").read_text()
    assert subject.describe().subject == HUGGING_FACE
    for refused in (subject.convert, subject.export):
        with pytest.raises(UnsupportedError, match="converts nothing"):
            refused(None)
