"""A model cast from a loaded one is bit for bit the model that is loaded in that dtype, buffers included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects import memory
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.cast_model import can_cast, has_same_parts, read_stored_dtypes
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.tiny import CONFIGS, save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import DType

CHAINS: tuple[tuple[DType, ...], ...] = (("float64", "float32", "bfloat16"), ("float32", "float64"))
MODELS = (*CONFIGS, "tied")


@dataclass
class Counting(HuggingFace):
    """Counts how often a checkpoint is read."""

    loads: list[str] = field(default_factory=list)

    def _from_pretrained(self, request: Any) -> Any:
        self.loads.append(request.dtype)
        return super()._from_pretrained(request)

    @property
    def model(self) -> Any:
        (model,) = self._cache._models.values()
        return model


def save(name: str, path: Path, stored: torch.dtype) -> Path:
    changes: dict[str, Any] = {"tie_word_embeddings": True} if name == "tied" else {}
    return save_model("llama" if name == "tied" else name, path, dtype=stored, **changes)


def run(side: HuggingFace, checkpoint: Path, dtype: DType, output: Path) -> TraceReader:
    inputs = save_inputs(output.with_suffix(".inputs"), padding=(0, 5))
    side.trace(trace_request(checkpoint, inputs, output, dtype=dtype, capture="all"))
    return TraceReader(output)


def assert_same_model(one: Any, other: Any) -> None:
    assert has_same_parts(one, other)
    for kind in ("named_parameters", "named_buffers"):
        pairs = zip(getattr(one, kind)(), getattr(other, kind)(), strict=True)
        for (name, tensor), (_, expected) in pairs:
            assert (tensor.dtype, tensor.device) == (expected.dtype, expected.device), name
            assert torch.equal(tensor, expected), name
    assert not one.training
    assert one.config.to_dict() == other.config.to_dict()


@pytest.mark.parametrize(
    ("name", "stored", "chain"),
    [
        *((name, torch.bfloat16, CHAINS[0]) for name in MODELS),
        ("llama", torch.float32, CHAINS[0]),
        ("mixtral", torch.bfloat16, CHAINS[1]),
    ],
)
def test_a_cast_model_is_the_loaded_one(
    name: str, stored: torch.dtype, chain: tuple[DType, ...], tmp_path: Path
) -> None:
    checkpoint = save(name, tmp_path / "model", stored)
    with Counting() as cast, Counting() as apart:
        for dtype in chain:
            one = run(cast, checkpoint, dtype, tmp_path / f"cast-{dtype}")
            apart.release()
            other = run(apart, checkpoint, dtype, tmp_path / f"apart-{dtype}")
            assert_same_model(cast.model, apart.model)
            assert [bool(torch.equal(one.tensor(name), other.tensor(name))) for name in other] == [True] * len([*other])
            assert one.result.ran == other.result.ran
        assert (cast.loads, apart.loads) == ([chain[0]], list(chain))


@pytest.mark.parametrize("chain", [("bfloat16", "float32"), ("float32", "bfloat16", "float32")], ids="-".join)
def test_a_model_that_was_rounded_is_never_the_source(chain: tuple[DType, ...], tmp_path: Path) -> None:
    checkpoint = save("llama", tmp_path / "model", torch.float32)
    with Counting() as side:
        for number, dtype in enumerate(chain):
            run(side, checkpoint, dtype, tmp_path / f"trace-{number}")
        assert side.loads == [chain[0], chain[-1]][-len(chain) :]


def test_without_memory_for_both_the_checkpoint_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save("llama", tmp_path / "model", torch.bfloat16)
    with Counting() as side:
        run(side, checkpoint, "float64", tmp_path / "one")
        monkeypatch.setattr(memory, "free_memory", lambda _: memory.weight_bytes(checkpoint, 4))
        run(side, checkpoint, "float32", tmp_path / "two")
        assert side.loads == ["float64", "float32"]


def test_another_checkpoint_is_read(tmp_path: Path) -> None:
    one, other = save("llama", tmp_path / "a", torch.bfloat16), save("mistral", tmp_path / "b", torch.bfloat16)
    with Counting() as side:
        run(side, one, "float64", tmp_path / "one")
        run(side, other, "float32", tmp_path / "two")
        assert side.loads == ["float64", "float32"]


def test_a_model_with_buffers_on_disk_or_unknown_dtypes_is_left_alone(tmp_path: Path) -> None:
    stored = read_stored_dtypes(save("llama", tmp_path / "model", torch.bfloat16))
    assert stored == {"BF16"}
    model = torch.nn.Linear(2, 2, dtype=torch.float64)
    assert can_cast(model, "float64", stored)
    assert not can_cast(model, "float32", stored), "its weights are not in that dtype"
    assert not can_cast(model, "float64", frozenset({"BF16", "I32"}))
    assert not can_cast(model, "float64", frozenset())
    model.register_buffer("scale", torch.ones(1))
    assert not can_cast(model, "float64", stored)
