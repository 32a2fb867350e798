"""Fast-LLM's training steps in layouts against transformers', where there is a Fast-LLM; what is refused, anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.layouts import LAYOUTS
from ci.subjects.base import ConvertRequest
from ci.subjects.failure import SubjectCrashError
from ci.subjects.fast_llm.training import check_devices, run_training
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.training import OptimizerSettings, Trainable, TrainRequest
from tests.ci.subjects.tiny import relative_error, save_model

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject

CHANGES: dict[str, Any] = {"vocab_size": 212}


def save_documents(path: Path, *, count: int = 4, length: int = 25) -> Path:
    """Documents of unequal lengths with a loss mask."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 211, (count, length), generator=generator)
    lengths = torch.tensor([length - 3 * (row % 2) for row in range(count)])
    ids[torch.arange(length) >= lengths[:, None]] = 0
    mask = (torch.rand(count, length - 1, generator=generator) > 0.2).long()
    save_file({"input_ids": ids, "lengths": lengths, "loss_mask": mask}, path)
    return path


class Place:
    """A converted tiny model with documents, and requests about it."""

    def __init__(self, subject: Subject, name: str, folder: Path, **changes: Any) -> None:
        assert isinstance(subject, Trainable)
        self.train, self.name, self.folder = subject.train, name, folder
        self.source, self.converted = save_model(name, folder / "source", **CHANGES, **changes), folder / "converted"
        subject.convert(ConvertRequest(str(self.source), str(self.converted), name))
        self.inputs = save_documents(folder / "inputs.safetensors")

    def request(self, layout: str, output: str, *, source: bool = False, **rest: Any) -> TrainRequest:
        checkpoint = self.source if source else self.converted
        files = str(checkpoint), str(self.inputs), str(self.folder / output)
        return TrainRequest(*files, self.name, layout=layout, **{"seconds": 120.0, **rest})

    def read(self, output: str, step: int, kind: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / output / f"step-{step}" / kind / "model.safetensors")


@pytest.fixture
def llama(fast_llm: Subject, tmp_path: Path) -> Place:
    return Place(fast_llm, "llama", tmp_path)


@pytest.mark.parametrize(
    ("name", "layout", "changes"),
    [
        ("llama", "tp2", {}),
        ("llama", "stp2_pp2", {}),
        ("qwen2", "sdp2", {}),
        ("mistral", "zero3", {}),
        ("qwen2", "pp2_tied", {"tie_word_embeddings": True}),
        ("mixtral", "tp2_split2", {}),
    ],
)
def test_a_layout_s_step_is_as_right_as_hugging_face(
    name: str, layout: str, changes: dict[str, Any], fast_llm: Subject, tmp_path: Path
) -> None:
    place = Place(fast_llm, name, tmp_path, **changes)
    result = place.train(place.request(layout, "theirs"))
    with HuggingFace() as hugging_face:
        right = hugging_face.train(place.request(layout, "right", source=True, dtype="float64"))
    assert result.losses == pytest.approx(right.losses, rel=1e-6)
    assert result.gradient_norms == pytest.approx(right.gradient_norms, rel=1e-4)
    actual, expected = (place.read(side, 1, "gradients") for side in ("theirs", "right"))
    assert actual.keys() == expected.keys()
    assert max(relative_error(actual[key], expected[key]) for key in expected) < 1e-4
    assert result.disagreements == ()
    assert [rank.rank for rank in result.ranks] == list(range(LAYOUTS[layout].ranks))
    assert (result.backend, result.ran["layout"]) == ("gloo", layout)


def test_a_resumed_run_goes_on_as_if_it_had_not_ended(llama: Place) -> None:
    train = llama.train
    train(llama.request("dp2", "whole", steps=2))
    train(llama.request("dp2", "first", save=True))
    resumed: dict[str, Any] = {"resume": str(llama.folder / "first" / "checkpoint"), "resume_steps": 1}
    train(llama.request("dp2", "second", **resumed))
    whole, second = llama.read("whole", 2, "weights"), llama.read("second", 1, "weights")
    assert all(torch.equal(whole[key], second[key]) for key in whole)
    train(llama.request("zero3", "elsewhere", **resumed))
    elsewhere = llama.read("elsewhere", 1, "weights")
    assert max(relative_error(elsewhere[key], whole[key]) for key in whole) < 1e-5


def test_a_checkpoint_without_its_last_file_is_refused(llama: Place) -> None:
    train = llama.train
    train(llama.request("tp2", "first", save=True))
    checkpoint = llama.folder / "first" / "checkpoint"
    resumed: dict[str, Any] = {"resume": str(checkpoint), "resume_steps": 1}
    (checkpoint / "rank_1.safetensors").unlink()
    with pytest.raises(SubjectError, match=r"rank_1\.safetensors"):
        train(llama.request("single", "missing", **resumed))
    (checkpoint / "ok").unlink()
    with pytest.raises(SubjectError, match="not complete: it has no file `ok`"):
        train(llama.request("tp2", "unfinished", **resumed))


def test_every_layout_exports_what_went_in(llama: Place) -> None:
    train = llama.train
    expected = load_file(llama.source / "model.safetensors")
    for layout in ("single", "tp2", "pp2", "zero3"):
        train(llama.request(layout, layout, steps=0, export=True))
        files = (llama.folder / layout / "export").glob("*.safetensors")
        exported = {key: tensor for file in files for key, tensor in load_file(file).items()}
        assert exported.keys() == expected.keys()
        assert all(torch.equal(exported[key], expected[key]) for key in expected)


def test_settings_of_the_optimizer_reach_it(llama: Place) -> None:
    train, before = llama.train, load_file(llama.source / "model.safetensors")
    still = OptimizerSettings(learning_rate=1e-3, weight_decay=0.5, epsilon=1e9)
    train(llama.request("tp2", "decay", optimizer=still))
    after = llama.read("decay", 1, "weights")
    for key, weight in before.items():
        assert relative_error(after[key], weight * (1 - 5e-4 if weight.ndim > 1 else 1)) < 1e-6
    clipped = train(llama.request("tp2", "clipped", optimizer=OptimizerSettings(max_gradient_norm=1e-3)))
    assert (clipped.gradient_norms[0] or 0) > 0.1
    assert (
        relative_error(*(llama.read(name, 1, "gradients")["model.norm.weight"] for name in ("clipped", "decay"))) == 0
    )


def test_recomputing_everything_changes_no_gradient(llama: Place) -> None:
    train = llama.train
    train(llama.request("tp2", "none"))
    result = train(llama.request("tp2", "full", recompute="full"))
    assert result.ran["recompute"] == "full"
    none, full = llama.read("none", 1, "gradients"), llama.read("full", 1, "gradients")
    assert max(relative_error(full[key], none[key]) for key in none) < 1e-6


def test_sequence_tensor_parallel_experts_die_and_the_rank_is_named(fast_llm: Subject, tmp_path: Path) -> None:
    """The day that this fails, Fast-LLM has mended it: take it out of docs/findings.md."""
    place = Place(fast_llm, "mixtral", tmp_path)
    with pytest.raises(SubjectCrashError, match=r"rank \d of 2 was killed by SIGABRT: .* in all_gather_into_tensor at"):
        place.train(place.request("stp2", "dies"))


def test_what_fast_llm_does_not_have_is_refused_by_name(llama: Place) -> None:
    with pytest.raises(UnsupportedError, match="no expert parallelism"):
        llama.train(llama.request("ep2", "ep2"))
    with pytest.raises(UnsupportedError, match="no recomputation 'all'"):
        llama.train(llama.request("tp2", "all", recompute="all"))


def test_too_few_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_devices(LAYOUTS["dp2_tp2"], "cpu")
    check_devices(LAYOUTS["accumulate2"], "cuda")
    with pytest.raises(UnsupportedError, match="layout dp2_tp2 needs 4 GPUs; this machine has 1"):
        check_devices(LAYOUTS["dp2_tp2"], "cuda")


def test_an_output_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="exists; name a directory that does not"):
        run_training(TrainRequest("checkpoint", "inputs", str(tmp_path), "llama"))
