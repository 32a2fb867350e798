"""Layouts give the same step as one process, and what is not offered is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ci.errors import UnsupportedError
from ci.subjects import ranks
from ci.subjects.reference.subject import ReferenceSubject
from ci.subjects.training import Trainable
from tests.ci.subjects.reference.training_runs import make_request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


def gradients(root: Path, output: str) -> Mapping[str, torch.Tensor]:
    return load_file(root / output / "step-1" / "gradients" / "model.safetensors")


def test_four_ranks_give_the_step_of_one_process(root: Path) -> None:
    subject = ReferenceSubject()
    assert isinstance(subject, Trainable)
    whole = subject.train(make_request(root, "accumulate2", layout="accumulate2"))
    parts = subject.train(make_request(root, "dp2_tp2", layout="dp2_tp2", capture=True, export=True))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-6)
    assert parts.gradient_norms == pytest.approx(whole.gradient_norms, rel=1e-6)
    assert parts.disagreements == ()
    assert [rank.groups for rank in parts.ranks][3] == {"tensor": (2, 3), "data": (1, 3)}
    assert parts.ranks[0].parameters["decoder.0.mixer.query.weight"] == (48, 48)
    expected, actual = gradients(root, "accumulate2"), gradients(root, "dp2_tp2")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float((actual[name] - tensor).norm() / tensor.norm()) < 1e-5, name
    captured = load_file(root / "dp2_tp2" / "captures" / "rank-1.safetensors")
    assert captured["decoder.0.mixer.query"].shape == (1, 17, 3, 16)
    exported = load_file(root / "dp2_tp2" / "export" / "model.safetensors")
    written = load_file(root / "dp2_tp2" / "step-1" / "weights" / "model.safetensors")
    assert all(torch.equal(exported[name], written[name]) for name in written)


def test_ranks_are_new_processes_once_this_one_used_a_gpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd's threads for a GPU do not survive a fork: on an H100 every layout of several ranks died of it."""
    whole = ReferenceSubject().train(make_request(root, "one", layout="accumulate2"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks, "fork_rank", None)
    parts = ReferenceSubject().train(make_request(root, "two", layout="dp2"))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-6)


def test_low_precision_keeps_its_parameters_in_float32(root: Path) -> None:
    result = ReferenceSubject().train(make_request(root, "bf16", dtype="bfloat16"))
    assert result.ran["dtype"] == "bfloat16"
    tensors = gradients(root, "bf16")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    ReferenceSubject().train(make_request(root, "float32"))
    name = "model.layers.0.mlp.up_proj.weight"
    error = float((tensors[name] - gradients(root, "float32")[name]).norm() / tensors[name].norm())
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layout": "zero3"}, "layout zero3 is not offered; it offers single, "),
        ({"layout": "pp2_tied"}, "needs tied embeddings"),
        ({"recompute": "full"}, "recomputation 'full' is not offered"),
        ({"dtype": "float16"}, "needs a loss scale"),
        ({"variant": {"moe": "looped"}}, "no variant moe=looped"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(root: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        ReferenceSubject().train(make_request(root, "refused", **changes))
