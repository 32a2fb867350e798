"""A training checkpoint goes on in any layout, and one that lacks something is refused by name."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import SubjectError
from ci.subjects.reference.subject import ReferenceSubject
from ci.subjects.reference.training_checkpoint import INDEX
from tests.ci.subjects.reference.training_runs import make_request

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints after one step of two documents, from two layouts."""
    root = tmp_path_factory.mktemp("checkpoints")
    for layout in ("zero2", "accumulate2"):
        ReferenceSubject().train(make_request(root, layout, layout=layout, save=True))
    return root


def test_every_layout_goes_on_from_every_other(root: Path) -> None:
    after = {}
    for saved in ("zero2", "accumulate2"):
        request = make_request(
            root, f"after-{saved}", layout="zero2", resume=str(root / saved / "checkpoint"), resume_steps=1
        )
        ReferenceSubject().train(request)
        after[saved] = load_file(root / f"after-{saved}" / "step-1" / "weights" / "model.safetensors")
    for name, tensor in after["zero2"].items():
        assert torch.allclose(tensor, after["accumulate2"][name], rtol=1e-6, atol=1e-8), name


def lose_shard(checkpoint: Path, other: Path) -> None:
    del other
    (checkpoint / "rank-1.safetensors").unlink()


def lose_moment(checkpoint: Path, other: Path) -> None:
    """Both from the file and from the index."""
    del other
    file, index = checkpoint / "rank-1.safetensors", json.loads((checkpoint / INDEX).read_text())
    tensors = load_file(file)
    del tensors["second/head.final_norm.weight"], index["files"][file.name]["second/head.final_norm.weight"]
    save_file(tensors, file)
    (checkpoint / INDEX).write_text(json.dumps(index))


def cut_moment(checkpoint: Path, other: Path) -> None:
    del other
    file = checkpoint / "rank-0.safetensors"
    tensors = load_file(file)
    tensors["first/head.final_norm.weight"] = tensors["first/head.final_norm.weight"][:3].clone()
    save_file(tensors, file)


def take_other_index(checkpoint: Path, other: Path) -> None:
    shutil.copy(other / INDEX, checkpoint / INDEX)


def claim_other_layout(checkpoint: Path, other: Path) -> None:
    """Name a layout with as many ranks that does not cut its state."""
    del other
    text = (checkpoint / INDEX).read_text()
    (checkpoint / INDEX).write_text(text.replace('"layout": "zero2"', '"layout": "tp2"'))


def name_no_layout(checkpoint: Path, other: Path) -> None:
    del other
    (checkpoint / INDEX).write_text('{"layout": "mine", "step": 1, "files": {}}')


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_shard, "rank-1.safetensors"),
        (lose_moment, "second/head.final_norm.weight is missing"),
        (cut_moment, "first/head.final_norm.weight has shape"),
        (take_other_index, "rank-0.safetensors|has 1 files"),
        (claim_other_layout, "another layout|not of layout tp2"),
        (name_no_layout, "cannot be used"),
    ],
)
def test_a_damaged_checkpoint_is_refused(root: Path, damage: object, words: str) -> None:
    damaged = root / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(root / "zero2" / "checkpoint", damaged)
    damage(damaged, root / "accumulate2" / "checkpoint")  # type: ignore[operator]
    with pytest.raises(SubjectError, match=words):
        ReferenceSubject().train(make_request(root, "refused", resume=str(damaged), resume_steps=1))
