"""Names of a trace's tensors: the parts of a name, and the order of execution."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ci import tensor_names
from ci.subjects import base
from ci.tensor_names import PATCHES


@pytest.mark.parametrize(
    ("name", "layer", "operation", "scope"),
    [
        ("embeddings", None, "embeddings", "embeddings"),
        ("decoder.0", 0, "", "decoder.0"),
        ("decoder.12.mixer.query", 12, "mixer.query", "decoder.12"),
        ("decoder.3.mlp.router_scores", 3, "mlp.router_scores", "decoder.3"),
        ("final_norm", None, "final_norm", "head"),
        ("logits", None, "logits", "head"),
        ("decoder.01", None, "decoder.01", "head"),
        ("decoder.1x", None, "decoder.1x", "head"),
        ("vision_encoder.embeddings.patch_embeddings", None, PATCHES, "vision_encoder.embeddings"),
        ("vision_encoder.encoder.2", None, "", "vision_encoder.encoder.2"),
        ("vision_encoder.encoder.2.mixer.query", None, "mixer.query", "vision_encoder.encoder.2"),
        ("vision_encoder.adapter", None, "vision_encoder.adapter", "vision_encoder.adapter"),
        ("image_embeddings", None, "image_embeddings", "image_embeddings"),
    ],
)
def test_a_name_says_its_block_its_operation_and_its_scope(
    name: str, layer: int | None, operation: str, scope: str
) -> None:
    assert tensor_names.layer_of(name) == layer
    assert tensor_names.operation_of(name) == operation
    assert tensor_names.scope_of(name) == scope


def test_names_are_made_from_the_same_parts() -> None:
    name = tensor_names.tensor_name(7, tensor_names.TOP_EXPERTS)
    assert (tensor_names.layer_of(name), tensor_names.operation_of(name)) == (7, tensor_names.TOP_EXPERTS)
    assert tensor_names.scope_of(name) == tensor_names.block_name(7)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *(("embeddings", True), ("head", True), ("decoder.0", True), ("decoder.00", False), ("decoder.1.mlp", False)),
        *(("final_norm", False), ("decoder.1234567", False), ("../head", False)),
        *(("vision_encoder.encoder.0", True), ("vision_encoder.encoder.00", False), ("vision_encoder", False)),
        *(("vision_encoder.adapter", True), ("image_embeddings", True), (PATCHES, False)),
    ],
)
def test_scopes_are_known_by_name(name: str, known: bool) -> None:
    assert tensor_names.is_scope(name) == known


def test_every_tensor_sorts_into_the_order_of_execution() -> None:
    blocks = [
        name
        for layer in (0, 1, 10)
        for name in (
            *(tensor_names.tensor_name(layer, operation) for operation in tensor_names.BLOCK_OPERATIONS),
            tensor_names.block_name(layer),
        )
    ]
    tower = tensor_names.list_vision_tensors([tensor_names.list_block_operations(experts=False)] * 11)
    names = [*tower, "embeddings", *blocks, "final_norm", "logits"]
    assert sorted(set(names), key=tensor_names.execution_order) == names


def test_a_trace_with_a_tower_must_hold_the_last_tensor_of_each_of_its_scopes() -> None:
    tower = dict.fromkeys(map(tensor_names.scope_of, tensor_names.list_vision_tensors([["mlp"], ["mlp"]])))
    assert all(map(tensor_names.is_scope, tower))
    assert all(map(tensor_names.is_vision, tower))
    assert tensor_names.list_mandatory_tensors(("head", "decoder.0", *reversed(tower))) == (
        *tower,
        *("embeddings", "decoder.0", "final_norm", "logits"),
    )


def test_what_was_not_captured_before_a_tensor_is_of_its_own_block() -> None:
    lacking = {"vision_encoder.encoder.1.mixer.context", "decoder.1.norm_2"}
    assert tensor_names.list_unseen_before("vision_encoder.encoder.1.mixer", lacking) == ("context",)
    assert tensor_names.list_unseen_before("decoder.1.mixer", lacking) == ()


def test_only_a_mixture_has_the_routers_operations() -> None:
    dense = tensor_names.list_block_operations(experts=False)
    assert not [operation for operation in dense if tensor_names.is_router(operation)]
    mixture = tensor_names.list_block_operations(experts=True, delta_rule=True, scan=True)
    beside = tensor_names.list_block_operations(experts=True, branches=True, delta_rule=True, scan=True)
    assert {*mixture} ^ {*beside} == {tensor_names.NORM_2, *tensor_names.BRANCH_OPERATIONS}
    assert {*mixture, *beside} == {*tensor_names.BLOCK_OPERATIONS}


def test_only_a_delta_rule_has_a_decay() -> None:
    attention = tensor_names.list_block_operations(experts=True)
    assert not set(attention) & set(tensor_names.DELTA_RULE_OPERATIONS)
    recurrent = tensor_names.list_block_operations(experts=False, delta_rule=True)
    assert set(tensor_names.DELTA_RULE_OPERATIONS) <= set(recurrent)


def test_only_a_scan_has_a_step() -> None:
    scan = tensor_names.list_block_operations(experts=False, scan=True)
    assert {*scan} - {*tensor_names.list_block_operations(experts=False)} == {tensor_names.STEP}
    assert tensor_names.list_unseen_before("decoder.0.mixer.context", ["decoder.0.mixer.value"]) == ("value",)


def test_further_prediction_heads_follow_the_main_one() -> None:
    names = [*tensor_names.list_prediction_head_tensors(12)]
    assert len(names) == 3 * 11
    everything = ["embeddings", "decoder.0", "final_norm", "logits", *names]
    assert sorted(set(everything), key=tensor_names.execution_order) == everything
    assert {tensor_names.scope_of(name) for name in names} == {"head"}
    assert not tensor_names.list_prediction_head_tensors(1)


def test_a_trace_must_hold_what_every_subject_can_capture() -> None:
    mandatory = tensor_names.list_mandatory_tensors(["embeddings", "decoder.0", "decoder.1", "head"])
    assert mandatory == ("embeddings", "decoder.0", "decoder.1", "final_norm", "logits")
    assert all(map(tensor_names.is_block_level, mandatory))
    assert not tensor_names.is_block_level("decoder.0.mlp")


def test_the_protocol_lists_every_name() -> None:
    documented = base.__doc__ or ""
    listed = [f"decoder.<i>.{operation} " for operation in tensor_names.BLOCK_OPERATIONS]
    listed += [f"{name} " for name in tensor_names.list_vision_tensors([])]
    assert [name for name in [*listed, "embeddings ", "final_norm ", "logits "] if name not in documented] == []


def test_it_needs_the_standard_library_only() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, tensor_names.__file__], check=True)


@pytest.mark.parametrize(
    ("name", "lacking", "unseen"),
    [
        ("decoder.1.mixer.context", ("mixer.query", "mixer.key", "mixer.value"), ("query", "key", "value")),
        ("decoder.1.mixer.context", ("mixer.query",), ()),
        ("decoder.1.mixer.context", ("mixer.value", "norm_1"), ("value",)),
        ("decoder.1.mlp", ("norm_2",), ("norm_2",)),
        ("decoder.1.mlp", ("mlp.router_scores",), ("router_scores",)),
        ("decoder.1.norm_1", ("mixer.query",), ()),
        ("logits", ("mixer.query",), ()),
    ],
)
def test_what_was_not_captured_just_before_a_tensor_may_be_where_it_begins(
    name: str, lacking: tuple[str, ...], unseen: tuple[str, ...]
) -> None:
    assert tensor_names.list_unseen_before(name, [f"decoder.1.{operation}" for operation in lacking]) == unseen
    assert tensor_names.list_unseen_before(name, [f"decoder.0.{operation}" for operation in lacking]) == ()
