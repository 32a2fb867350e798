from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pkgutil import iter_modules

import pytest

import ci.github
from ci.errors import RequestError
from ci.hub.slices import Slice
from ci.known_refusals import KnownRefusal
from ci.models import HubModel, load_models, select_models
from ci.plan import (
    MAX_ENTRIES,
    Plan,
    RunRequest,
    leave_out_consumer,
    make_plan,
    matrix,
    registry_digest,
    require_models,
)
from ci.records import read_json, to_json
from ci.subjects.reference.offer import LAYOUTS_OFFERED
from tests.ci.report.samples import MODELS


def test_nothing_asked_for_is_the_default_group() -> None:
    plan = make_plan(RunRequest(), load_models())
    assert plan.entries
    assert all("default" in entry.model.groups for entry in plan.entries)


KNOWN = KnownRefusal("reference", "some words of it", "2026-11-25", "docs/findings.md")


def refusing(*names: str) -> dict[str, HubModel]:
    """The registry in which the reference is known to refuse some models."""
    return {name: replace(m, known_refusals=(KNOWN,) if name in names else ()) for name, m in load_models().items()}


@pytest.mark.parametrize(
    ("request_", "left_out"),
    [
        (RunRequest("issue_comment"), ("smollm2", "mixtral")),
        (RunRequest("workflow_dispatch", pull_request=7), ("smollm2", "mixtral")),
        (RunRequest("merge_group", models=("@default",)), ("smollm2", "mixtral")),
        (RunRequest("issue_comment", models=("smollm2",)), ()),
        (RunRequest("issue_comment", models=("@moe",)), ()),
        (RunRequest("schedule"), ()),
        (RunRequest("cli"), ()),
        (RunRequest("issue_comment", subject="fast_llm"), ()),
    ],
    ids=["comment", "by hand", "merge group", "named", "group", "night", "laptop", "another subject"],
)
def test_only_a_pull_requests_default_group_leaves_out_known_refusals(
    request_: RunRequest, left_out: tuple[str, ...]
) -> None:
    models = refusing("smollm2", "mixtral")
    plan = make_plan(request_, models)
    asked = {model.name for model in select_models(models, request_.models)}
    assert tuple(one.name for one in plan.left_out) == left_out
    assert {entry.name for entry in plan.entries} == asked - set(left_out)
    assert read_json(Plan, to_json(plan), what="plan") == plan


def test_a_run_of_known_refusals_alone_is_planned() -> None:
    defaults = [name for name, model in load_models().items() if "default" in model.groups]
    plan = make_plan(RunRequest("issue_comment"), refusing(*defaults))
    assert ([entry.name for entry in plan.entries], plan.left_out) == (defaults, ())


@pytest.mark.parametrize(
    ("models", "left_out"),
    [
        (("mistral", "qwen2-05b"), ("smollm2", "mixtral")),
        (("mistral", "qwen2-05b", "mixtral"), ("smollm2",)),
        (("mistral",), ("smollm2",)),
    ],
    ids=["as the gate names them", "one named", "others named"],
)
def test_a_refused_model_is_not_required_and_is_named(models: tuple[str, ...], left_out: tuple[str, ...]) -> None:
    registry = refusing("smollm2", "mixtral")
    plan = require_models(make_plan(RunRequest("issue_comment", models), registry), registry, ("smollm2", "mistral"))
    assert plan.required == ("mistral",)
    assert tuple(sorted((one.name for one in plan.left_out), reverse=True)) == left_out


def test_each_entry_lists_the_tests_that_must_come_back() -> None:
    plan = make_plan(RunRequest(models=("mixtral", "smollm2")), MODELS)
    assert [entry.name for entry in plan.entries] == ["smollm2", "mixtral"]
    assert plan.entries[1].tests == (
        "test_download_and_truncate[mixtral]",
        "test_conversion[mixtral]",
        "test_forward_equivalence[mixtral]",
        "test_moe_implementation[looped-mixtral]",
        "test_moe_implementation[dropless-mixtral]",
        "test_implementation[attention-eager-mixtral]",
        "test_implementation[attention-sdpa-mixtral]",
        "test_implementation[attention-blockwise-mixtral]",
        "test_hub_model_conversion[mixtral]",
    )
    assert not any("moe" in test for test in plan.entries[0].tests)


def test_deep_adds_its_tests() -> None:
    shallow, deep = (
        make_plan(RunRequest(models=("smollm2",), deep=deep), MODELS).entries[0].tests for deep in (False, True)
    )
    assert set(deep) - set(shallow) == {
        "test_config_sensitivity[smollm2]",
        "test_weight_liveness[smollm2]",
        "test_layer_order[smollm2]",
        "test_positions[smollm2]",
        "test_gradients[smollm2]",
        "test_training_step[smollm2]",
        "test_resume[smollm2]",
        "test_layout_conversion[smollm2]",
        *(f"test_implementation[layout-{name}-smollm2]" for name in LAYOUTS_OFFERED if name != "single"),
    }


def test_a_consumer_adds_one_test_which_can_be_left_out_again() -> None:
    plain, served = (make_plan(RunRequest(deep=True, consumer=name), MODELS) for name in (None, "vllm"))
    added = [set(one.tests) - set(other.tests) for one, other in zip(served.entries, plain.entries, strict=True)]
    assert added == [{f"test_served_export[{entry.name}]"} for entry in plain.entries]
    assert leave_out_consumer(served) == plain


def test_layers_of_the_request_win_over_the_registry() -> None:
    assert make_plan(RunRequest(layers="auto"), MODELS).entries[0].model.num_layers_to_keep == "auto"
    picked = make_plan(RunRequest(layers=(0, 3), slice=Slice(4096)), MODELS).entries[0].model
    assert (picked.layer_request, picked.slice) == ((0, 3), Slice(4096))
    assert make_plan(RunRequest(layers=5), MODELS).entries[0].model.num_layers_to_keep == 5
    assert make_plan(RunRequest(), MODELS).entries[0].model.num_layers_to_keep == 2


def test_a_plan_survives_json() -> None:
    plan = make_plan(RunRequest("issue_comment", layers="auto", sha="0" * 40, pull_request=3), MODELS)
    assert read_json(Plan, to_json(plan), what="plan") == plan


def test_an_unknown_key_in_a_plan_is_refused() -> None:
    text = to_json(make_plan(RunRequest(), MODELS)).replace('"registry"', '"registree"')
    with pytest.raises(RequestError, match="plan"):
        read_json(Plan, text, what="plan")


def test_the_matrix_has_one_job_an_entry() -> None:
    jobs = matrix(make_plan(RunRequest(), MODELS))["include"]
    assert jobs[2] == {"name": "mixtral", "model_id": "mistralai/Mixtral-8x7B-v0.1", "layers": "2"}
    assert len(jobs) == len(MODELS)


def test_more_entries_than_a_matrix_takes_are_refused() -> None:
    models = {f"m{n}": replace(MODELS["mixtral"], name=f"m{n}") for n in range(MAX_ENTRIES + 1)}
    with pytest.raises(RequestError, match="selects 257 models, one run takes at most 256"):
        make_plan(RunRequest(models=("*",)), models)
    models.popitem()
    assert len(make_plan(RunRequest(models=("*",)), models).entries) == MAX_ENTRIES


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(RequestError, match="no group '@default'"):
        make_plan(RunRequest(), {name: replace(model, groups=("x",)) for name, model in MODELS.items()})


def test_an_unknown_word_gets_a_suggestion() -> None:
    with pytest.raises(RequestError, match="Did you mean 'mixtral'"):
        make_plan(RunRequest(models=("mixtrall",)), MODELS)


def test_names_that_differ_in_case_only_are_refused() -> None:
    twins = {"mixtral": MODELS["mixtral"], "Mixtral": replace(MODELS["mixtral"], name="Mixtral")}
    with pytest.raises(RequestError, match="two entries are called 'mixtral'"):
        make_plan(RunRequest(models=("*",)), twins)


def test_the_digest_tells_registries_apart() -> None:
    other = {**MODELS, "mixtral": replace(MODELS["mixtral"], revision=None)}
    assert registry_digest(MODELS) != registry_digest(other)
    assert registry_digest(MODELS) == registry_digest(dict(reversed(MODELS.items())))


def test_what_names_layers_also_names_the_slice() -> None:
    """A record that forgets the slice would take a result of a smaller model for one of the whole."""
    records = {
        record
        for name in ("plan", *(f"github.{module.name}" for module in iter_modules(ci.github.__path__)))
        for record in vars(import_module(f"ci.{name}")).values()
        if isinstance(record, type) and is_dataclass(record)
    }
    with_layers = {record for record in records if "layers" in {field.name for field in fields(record)}}
    assert len(with_layers) > 5
    assert not [r.__name__ for r in with_layers if not {"slice", "subset"} & {field.name for field in fields(r)}]
