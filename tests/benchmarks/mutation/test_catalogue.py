"""The catalogue is big enough, unambiguous, and every bug applies to some tiny model."""

from __future__ import annotations

import re
from collections import Counter

from benchmarks.mutation.catalogue import catalogue, deep_catalogue
from benchmarks.mutation.equal_rewrites import EQUAL_REWRITES, EXACT_IN_LOW_PRECISION
from benchmarks.mutation.hf_injection import HF_INJECTORS
from benchmarks.mutation.tiny_models import TINY_MODELS
from ci.equivalence.tensor_location import locate_tensor

TENSORS = [
    *("embeddings", "final_norm", "logits"),
    *(
        f"decoder.{layer}.{name}"
        for layer in range(4)
        for name in (
            *("norm_1", "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer", "norm_2"),
            *("mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores", "mlp"),
        )
    ),
]


def test_there_are_enough_bugs_and_each_has_a_name() -> None:
    bugs = catalogue()
    pairs = [(bug.name, name) for bug in bugs for name, model in TINY_MODELS.items() if bug.applies_to(model)]
    assert len(pairs) >= 60
    assert max(Counter(pairs).values()) == 1
    assert {bug.component for bug in bugs} == {"conversion", "kernel"}


def test_every_bug_applies_to_a_tiny_model_and_names_one_place() -> None:
    for bug in catalogue():
        assert any(bug.applies_to(tiny_model) for tiny_model in TINY_MODELS.values()), bug.name
        places = [tensor for tensor in TENSORS if re.fullmatch(bug.location, tensor)]
        assert len(places) == 1, (bug.name, places)
        assert locate_tensor(places[0]).operation


def test_a_bug_is_injected_in_one_way() -> None:
    for bug in catalogue():
        ways = (bug.weights is not None, bug.architecture is not None, bool(bug.patches))
        assert sum(ways) == 1, bug.name
        assert bool(bug.hf_targets) == bool(bug.patches), bug.name
        assert set(bug.hf_targets) <= set(HF_INJECTORS)


def test_every_deep_bug_applies_and_is_injected_in_one_way() -> None:
    names = [bug.name for bug in catalogue()] + [bug.mutation.name for bug in deep_catalogue()]
    assert max(Counter(names).values()) == 1
    for bug in deep_catalogue():
        mutation = bug.mutation
        assert any(mutation.applies_to(tiny_model) for tiny_model in TINY_MODELS.values()), mutation.name
        assert sum((mutation.weights is not None, mutation.architecture is not None, bool(mutation.patches))) == 1
        assert set(mutation.hf_targets) <= set(HF_INJECTORS)


def test_there_are_enough_equal_rewrites_for_a_hundred_controls() -> None:
    assert {rewrite.name for rewrite in EQUAL_REWRITES} >= EXACT_IN_LOW_PRECISION
    low = sum(tiny_model.dtype != "float32" for tiny_model in TINY_MODELS.values())
    assert len(EQUAL_REWRITES) * len(TINY_MODELS) + len(EXACT_IN_LOW_PRECISION) * low >= 100
