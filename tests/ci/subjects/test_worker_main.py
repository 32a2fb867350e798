from __future__ import annotations

import errno
from typing import Any

import pytest

from ci.errors import InfrastructureError, RequestError, UnsupportedError
from ci.subjects.base import NO_GRADIENTS, ConvertRequest, ConvertResult, Preparable, Variant
from ci.subjects.failure import SubjectOutOfMemoryError
from ci.subjects.training import NO_TRAINING
from ci.subjects.worker_main import handle_request


class OutOfMemoryError(RuntimeError):
    """By this name torch says so."""


class Fake:
    """A subject that raises, or answers plainly."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def describe(self) -> Any:
        raise self.error or AssertionError

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        return (Variant("moe", checkpoint, default=True),)

    def convert(self, request: ConvertRequest) -> ConvertResult:
        return ConvertResult(files=(request.target,), bytes_written=1, seconds=0.5)


def asked(subject: Any, method: str, **arguments: Any) -> dict[str, Any]:
    return handle_request(subject, {"id": 3, "method": method, "arguments": arguments})


def test_records_cross_as_plain_values() -> None:
    assert asked(Fake(), "variants", checkpoint="x") == {
        "id": 3,
        "result": [{"axis": "moe", "name": "x", "default": True, "needs": None}],
    }
    converted = asked(Fake(), "convert", source="a", target="b", checkpoint_format="llama")
    assert converted["result"] == {"files": ("b",), "bytes_written": 1, "seconds": 0.5}


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (UnsupportedError("gemma"), "unsupported"),
        (NotImplementedError("gemma"), "unsupported"),
        (SubjectOutOfMemoryError("on cuda:0"), "out_of_memory"),
        (OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RequestError("exists"), "request"),
        (InfrastructureError("disk"), "infrastructure"),
        (OSError(errno.ENOSPC, "No space left on device"), "infrastructure"),
        (FileNotFoundError(errno.ENOENT, "x"), "error"),
        (KeyError("attention_factor"), "error"),
        (SystemExit(3), "error"),
        (RecursionError("deep\nand deeper"), "error"),
    ],
)
def test_whatever_is_raised_is_a_failure_of_one_line(
    error: BaseException, failure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = asked(Fake(error), "describe")
    assert (answered["id"], answered["failure"]) == (3, failure)
    assert "\n" not in answered["message"]
    assert str(error).splitlines()[:1] == [] or str(error).splitlines()[0] in answered["message"]
    assert "Traceback" in capsys.readouterr().err


def test_a_method_that_is_none_is_an_error() -> None:
    assert asked(Fake(), "fly")["failure"] == "error"


def test_an_optional_method_that_is_lacking_is_no_refusal_of_the_model() -> None:
    lacking = asked(Fake(), "gradients", checkpoint="a", inputs="b", output="c", checkpoint_format="llama")
    assert (lacking["failure"], lacking["message"]) == ("not_offered", NO_GRADIENTS)
    lacking = asked(Fake(), "train", checkpoint="a", inputs="b", output="c", checkpoint_format="llama")
    assert (lacking["failure"], lacking["message"]) == ("not_offered", NO_TRAINING)


def test_an_interrupt_is_no_answer() -> None:
    with pytest.raises(KeyboardInterrupt):
        asked(Fake(KeyboardInterrupt()), "describe")


def test_who_can_prepare_itself_does_and_others_have_nothing_to_do() -> None:
    class Heavy(Fake):
        prepared = 0

        def prepare(self) -> None:
            self.prepared += 1

    heavy = Heavy()
    assert isinstance(heavy, Preparable)
    assert not isinstance(Fake(), Preparable)
    assert asked(heavy, "prepare") == {"id": 3, "result": True}
    assert heavy.prepared == 1
    assert asked(Fake(), "prepare") == {"id": 3, "result": True}


def test_a_device_that_cannot_be_made_ready_is_left_to_the_first_trace() -> None:
    class OnDevice(Fake):
        asked = ""

        def prepare_device(self, device: str) -> None:
            self.asked = device
            raise MemoryError(device)

    subject = OnDevice()
    assert asked(subject, "prepare_device", device="cuda") == {"id": 3, "result": True}
    assert subject.asked == "cuda"
    assert asked(Fake(), "prepare_device", device="cuda") == {"id": 3, "result": True}
