"""The test ids of a model, by subject and format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.subjects.base import Variant
from ci.subjects.offer import SubjectOffer
from ci.subjects.registry import find_offer
from ci.suite import tests as suite_tests
from ci.suite.tests import (
    DEEP_TESTS,
    DEFAULT_TESTS,
    TRAINING_TESTS,
    list_expected_tests,
    list_layouts,
    list_moe_variants,
    list_other_variants,
    list_variant_names,
    list_variant_tests,
)

if TYPE_CHECKING:
    import pytest


def test_a_dense_model_has_no_test_of_mixtures() -> None:
    assert list_expected_tests("reference", "tiny", "llama") == (
        "test_download_and_truncate[tiny]",
        "test_conversion[tiny]",
        "test_forward_equivalence[tiny]",
        "test_implementation[attention-eager-tiny]",
        "test_implementation[attention-sdpa-tiny]",
        "test_implementation[attention-blockwise-tiny]",
        "test_hub_model_conversion[tiny]",
    )


def test_a_mixture_has_one_test_an_implementation() -> None:
    tests = list_expected_tests("fast_llm", "mix", "mixtral")
    assert [test for test in tests if "moe" in test] == [
        "test_moe_implementation[looped-mix]",
        "test_moe_implementation[dropless-mix]",
    ]
    assert [test for test in tests if test.startswith("test_implementation")] == [
        f"test_implementation[attention-{name}-mix]" for name in ("backup", "sdpa_dense", "sdpa_nested", "flash")
    ]


def test_deep_tests_come_last_and_on_request() -> None:
    plain, deep = (list_expected_tests("reference", "tiny", "llama", deep=deep) for deep in (False, True))
    layouts = [f"test_implementation[layout-{name}-tiny]" for _, name in list_layouts("reference")]
    assert [test for test in deep if test not in layouts] == [*plain, *(f"{name}[tiny]" for name in DEEP_TESTS)]
    assert set(layouts) < set(deep)
    assert "test_implementation[layout-single-tiny]" not in layouts, "that is test_training_step"
    assert not set(DEFAULT_TESTS) & set(DEEP_TESTS)


def test_a_served_export_is_tested_on_request_before_the_deep_tests() -> None:
    deep = list_expected_tests("reference", "tiny", "llama", deep=True)
    served = list_expected_tests("reference", "tiny", "llama", deep=True, served=True)
    place = served.index("test_served_export[tiny]")
    assert served[place - 1] == "test_hub_model_conversion[tiny]"
    assert served == (*deep[:place], "test_served_export[tiny]", *deep[place:])


def test_a_subject_that_does_not_export_has_nothing_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = replace(find_offer("reference"), exports=False)
    monkeypatch.setattr(suite_tests, "find_offer", lambda _: offer)
    assert "test_served_export[tiny]" not in list_expected_tests("reference", "tiny", "llama", served=True)


def test_a_subject_without_gradients_is_not_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = replace(find_offer("reference"), gradients=False)
    monkeypatch.setattr(suite_tests, "find_offer", lambda _: offer)
    deep = list_expected_tests("reference", "tiny", "llama", deep=True)
    assert [test for test in deep if test.startswith(DEEP_TESTS)] == [
        f"{name}[tiny]" for name in DEEP_TESTS if name != "test_gradients"
    ]


def test_a_subject_without_layouts_is_not_asked_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = replace(find_offer("reference"), layouts=())
    monkeypatch.setattr(suite_tests, "find_offer", lambda _: offer)
    deep = list_expected_tests("reference", "tiny", "llama", deep=True)
    assert not [test for test in deep if test.startswith(TRAINING_TESTS) or "layout" in test]


def test_variants_are_split_by_the_test_that_runs_them() -> None:
    assert list_moe_variants("reference", "mixtral") == ("looped", "dropless")
    assert list_moe_variants("reference", "llama") == ()
    assert {axis for axis, _ in list_other_variants("reference", "mixtral")} == {"attention"}


def test_names_of_every_subject_are_listed_once() -> None:
    assert list_variant_names() == {
        "attention": ("backup", "sdpa_dense", "sdpa_nested", "flash", "eager", "sdpa", "blockwise"),
        "moe": ("looped", "dropless"),
        "mixer": ("attention", "sliding_window", "gdn", "kda"),
    }


def test_names_of_another_adapters_variants_are_added() -> None:
    other = SubjectOffer("other", "other", ("llama",), (Variant("attention", "folded"), Variant("moe", "looped")))
    assert list_variant_names(other)["attention"][-1] == "folded"
    assert list_variant_names(other)["moe"] == ("looped", "dropless")


def test_each_variant_is_known_by_the_id_of_its_test() -> None:
    for subject in ("fast_llm", "reference"):
        planned = list_expected_tests(subject, "mix", "mixtral", deep=True)
        planned = tuple(test for test in planned if "implementation" in test)
        assert set(list_variant_tests(subject, "mix", "mixtral")) == set(planned)
    assert list_variant_tests("fast_llm", "mix", "mixtral")["test_moe_implementation[dropless-mix]"].needs == "triton"
