"""Bugs before the decoder of a model with images: each is located in the part, and the block, that has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.mutation.injection import Mutation
from ci.equivalence import config_changes
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.judge import Judge
from ci.models import HubModel, TestParams
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.config import AxialRope
from ci.subjects.reference.directories import METADATA
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import is_vision
from tests.ci.subjects.reference.cases import convert_request, model
from tests.ci.subjects.reference.planting import Plant, in_function, in_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import ConvertRequest, ConvertResult
    from ci.subjects.reference.model import Model

PARAMS = TestParams(batch_size=2, sequence_length=48, compare_factor=1.0)


@pytest.fixture(scope="module")
def make_judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Judge]]:
    """A function that opens a judge of a subject over one llava; Hugging Face's side runs once."""
    root = tmp_path_factory.mktemp("llava")
    source, converted = model("llava", root / "model", dtype="bfloat16"), root / "converted"
    ReferenceSubject().convert(convert_request(source, converted, "llava"))
    inputs = ComparisonInputs(
        HubModel("llava", "stand-in/llava", "llava", model_config="multimodal", test_params=PARAMS),
        *(str(source), str(converted)),
        workdir=str(root / "judge"),
    )
    with HuggingFace() as side:
        reference = ReferenceRun(source, PARAMS, side, "cpu", root / "reference")
        yield lambda subject=None: Judge(inputs, subject or ReferenceSubject(), side, shared_reference=reference)


def in_tower(change: Callable[[Any], Any]) -> Plant:
    """A bug of the tower's description."""

    def plant(right: Model) -> Model:
        return replace(right, architecture=replace(right.architecture, vision=change(right.architecture.vision)))

    return in_weights(plant)


def in_block(index: int, **changes: Any) -> Plant:
    """A bug of one block's attention."""

    def change(tower: Any) -> Any:
        blocks = list(tower.blocks)
        blocks[index] = replace(blocks[index], mixer=replace(blocks[index].mixer, **changes))
        return replace(tower, blocks=tuple(blocks))

    return in_tower(change)


def in_weight(name: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """A bug of one weight."""

    def plant(right: Model) -> Model:
        return replace(right, weights={**right.weights, name: change(right.weights[name])})

    return in_weights(plant)


def result(path: str, change: Callable[[Any], Any]) -> Plant:
    """A function that returns something else."""
    return in_function(path, lambda function: lambda *args: change(function(*args)))


def late(place: Any) -> Any:
    """Features stand one image token late."""
    return lambda embeddings, ids, token, features: place(embeddings, ids, token, features.roll(1, dims=0))


def scale_features(place: Any) -> Any:
    """Features are scaled as embeddings of tokens are in some models."""
    return lambda embeddings, ids, token, features: place(embeddings, ids, token, features * 1.5)


def channels_last(patches: Tensor) -> Tensor:
    return patches.view(len(patches), 3, -1).transpose(1, 2).flatten(1)


def turn_grid(located: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return located[0].flip(-1), located[1]


def mix_images(located: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return located[0], torch.zeros_like(located[1])


BLOCK_1 = "vision_encoder.encoder.1"
QUICK = {
    "channels last": (result("model.cut_patches", channels_last), "patch embedding", "order of a patch's values"),
    "lines and columns": (result("model.locate_patches", turn_grid), "vision block 0, query", "2-D RoPE"),
    "epsilon of the norm": (in_tower(lambda v: replace(v, epsilon=0.3)), "norm of the patches", "epsilon"),
    "gelu by tanh": (in_tower(lambda v: replace(v, projector="gelu")), "projector", "activation"),
    "one token late": (in_function("model.place_features", late), "image features among the tokens", "order of the"),
}
LONG = {
    "order of patches": (result("model.cut_patches", lambda p: p.flip(0)), "patch embedding", "weight"),
    "a dead channel": (
        in_weight("vision_encoder.embeddings.patch_embeddings.weight", lambda w: w.index_fill(0, torch.tensor(7), 0)),
        *("patch embedding", "only channels 7"),
    ),
    "base of RoPE in block 1": (in_block(1, rope=AxialRope(70.0)), "vision block 1, query", "2-D RoPE"),
    "no weight of the norm": (
        in_weight("vision_encoder.embeddings.normalization.weight", torch.ones_like),
        *("norm of the patches", "norm's weight"),
    ),
    "norm in block 1": (in_weight(f"{BLOCK_1}.norm_2.weight", torch.ones_like), "vision block 1, norm", "weight"),
    "block 1 is causal": (in_block(1, causal=True), "vision block 1, attention", "causal"),
    "images see each other": (result("model.locate_patches", mix_images), "vision block 0, attention", "one image"),
    "output of block 1": (
        in_weight(f"{BLOCK_1}.mixer.dense.weight", lambda w: w * 1.25),
        *("vision block 1, attention output projection", "scaled by 1.25"),
    ),
    "MLP of block 1": (
        in_weight(f"{BLOCK_1}.mlp.layer_1.weight", lambda w: torch.cat(w.chunk(2)[::-1])),
        *("vision block 1, MLP", "gate, up or down"),
    ),
    "no second bias": (
        in_weight("vision_encoder.adapter.layer_2.bias", torch.zeros_like),
        *("projector", "second bias"),
    ),
    "scaled features": (
        in_function("model.place_features", scale_features),
        *("image features among the tokens", "scaled by 1.5"),
    ),
}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_a_bug_is_located_in_its_part_and_block(
    make_judge: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plant, location, suspect = {**QUICK, **LONG}[name]
    plant(monkeypatch)
    verdict = make_judge().check_forward(dtype="float32", variant={})
    assert not verdict.passed
    assert verdict.diagnosis.startswith(location), verdict.diagnosis
    assert suspect in verdict.diagnosis, verdict.diagnosis
    assert is_vision(verdict.tensor), "a tensor before the decoder is named"
    assert verdict.layer is None, "the number of a decoder's block is not a tower's"


def test_a_bug_of_every_block_is_named_in_every_block(
    make_judge: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is compared on right input, so that a later one is not excused by an earlier one."""
    result("model.locate_patches", turn_grid)(monkeypatch)
    diagnosis = make_judge().check_forward(dtype="float32", variant={}).diagnosis
    assert "also wrong on right input: query in vision block 1" in diagnosis, diagnosis


def test_without_a_bug_every_tensor_is_compared_and_right(make_judge: Callable[..., Judge]) -> None:
    verdicts: list[Verdict] = [make_judge().check_forward(dtype=dtype, variant={}) for dtype in ("float32", "model")]
    assert [verdict.diagnosis for verdict in verdicts if not verdict.passed] == []
    compared = {measure.tensor for measure in verdicts[0].measures}
    assert {"vision_encoder.embeddings", BLOCK_1, "vision_encoder.adapter", "image_embeddings"} <= compared
    assert f"{BLOCK_1}.mixer.context" in compared
    assert "captures" not in verdicts[0].coverage


def move_scale(right: Model) -> Model:
    """Queries of block 1 are twice as large, and keys half: what they give together is the same."""
    query, both = (f"{BLOCK_1}.mixer.{name}.weight" for name in ("query", "key_value"))
    key, value = right.weights[both].chunk(2)
    return replace(right, weights={**right.weights, query: right.weights[query] * 2, both: torch.cat([key / 2, value])})


@pytest.mark.long
def test_an_exact_symmetry_inside_a_vision_block_is_no_fault(
    make_judge: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_weights(move_scale)(monkeypatch)
    verdict = make_judge().check_forward(dtype="float32", variant={})
    assert verdict.passed, verdict.diagnosis
    assert any("equal up to an exact symmetry" in note for note in verdict.notes)


class Converter(ReferenceSubject):
    """Converts with a change of metadata.yaml, or of the weights by name."""

    def __init__(self, text: Callable[[str], str] | None = None, mutation: Mutation | None = None) -> None:
        super().__init__()
        self.text, self.mutation = text, mutation

    def convert(self, request: ConvertRequest) -> ConvertResult:
        result = super().convert(request)
        metadata = Path(request.target) / METADATA
        if self.text is not None:
            metadata.write_text(self.text(metadata.read_text()))
        if self.mutation is not None:
            self.mutation.edit_checkpoint(Path(request.target))
        return result


WANTED = ("vision_config.rope_theta=31720", "text_config.rms_norm_eps=0.001372", "projector_hidden_act=relu")


@pytest.fixture
def three_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key of each section, and one above them."""
    original = config_changes.list_changes

    def list_changes(*arguments: Any) -> tuple[Any, ...]:
        listed = original(*arguments)  # which lists those of each section by this function, too
        return tuple(c for c in listed if any(f".{name}".endswith(f".{c.name}") for name in WANTED))

    monkeypatch.setattr(config_changes, "list_changes", list_changes)


@pytest.mark.long
@pytest.mark.usefixtures("three_keys")
def test_a_key_of_a_section_that_is_dropped_is_named_with_its_section(make_judge: Callable[..., Judge]) -> None:
    right = make_judge().check_config_sensitivity()
    assert right.passed, right.diagnosis
    assert right.figures["config_keys_alike"] == 4, "three keys, and all of them together"
    dropper = Converter(lambda text: text.replace("31720.0", "10000.0").replace("0.001372", "1.0e-05"))
    wrong = make_judge(dropper).check_config_sensitivity()
    assert "vision_config.rope_theta=31720 is silently ignored" in wrong.diagnosis
    assert "text_config.rms_norm_eps=0.001372 is silently ignored" in wrong.diagnosis
    assert wrong.coverage["config key projector_hidden_act=relu"] == "alike"


def sort_blocks_as_text(weights: dict[str, Tensor], _: Any) -> None:
    """Give block i of the tower the weights of the i-th one in the order of their names as text."""
    before, prefix = dict(weights), "vision_encoder.encoder."
    blocks = sorted({name.split(".")[2] for name in before if name.startswith(prefix)})
    for place, block in enumerate(blocks):
        for name in before:
            if name.startswith(f"{prefix}{place}."):
                weights[name] = before[name.replace(f"{prefix}{place}.", f"{prefix}{block}.")]


@pytest.mark.long
def test_the_order_of_a_towers_blocks_is_tested_with_twelve_of_them(make_judge: Callable[..., Judge]) -> None:
    (right,) = make_judge().check_layer_order()
    assert right.passed, right.diagnosis
    mutation = Mutation("text order", "layer order", "vision_encoder.encoder.2", weights=sort_blocks_as_text)
    assert make_judge(Converter(mutation=mutation)).check_forward(dtype="float32", variant={}).passed, "two are too few"
    (wrong,) = make_judge(Converter(mutation=mutation)).check_layer_order()
    assert wrong.diagnosis.startswith("vision block 2"), wrong.diagnosis


@pytest.mark.long
def test_far_positions_of_text_and_of_patches_are_tested(
    make_judge: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = make_judge().check_positions()
    assert [verdict.diagnosis for verdict in verdicts if not verdict.passed] == []
    assert verdicts[0].coverage == {"positions": "up to 511 of 511", "images": "far: 2 images (4 x 64, 64 x 8)"}
    result("model.locate_patches", lambda located: (located[0].clamp(max=12), located[1]))(monkeypatch)
    assert make_judge().check_forward(dtype="float32", variant={}).passed, "images of the batch are small"
    exact, native = make_judge().check_positions()
    assert (exact.passed, native.passed) == (False, False)
    assert exact.diagnosis.startswith("vision block 0, query"), exact.diagnosis
    assert "2-D RoPE" in exact.diagnosis


def leave_at_one(weights: dict[str, Tensor], _: Any) -> None:
    weights[f"{BLOCK_1}.norm_2.weight"] = torch.ones_like(weights[f"{BLOCK_1}.norm_2.weight"])


@pytest.mark.long
def test_a_weight_of_the_tower_that_is_not_read_is_found_by_perturbing_it(make_judge: Callable[..., Judge]) -> None:
    right = make_judge().check_weight_liveness()
    assert right.passed, right.diagnosis
    assert "no image" not in right.coverage["images"], "text alone is the forward pass's own case"
    mutation = Mutation("dead norm", "liveness", "vision_encoder.encoder.1.norm_2", weights=leave_at_one)
    wrong = make_judge(Converter(mutation=mutation)).check_weight_liveness()
    assert wrong.diagnosis.startswith("vision block 1, norm before the MLP"), wrong.diagnosis
