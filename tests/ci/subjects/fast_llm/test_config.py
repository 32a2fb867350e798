"""Choices in a configuration of Fast-LLM's form; the real one is in test_fast_llm.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ci.errors import UnsupportedError
from ci.subjects.base import TraceRequest
from ci.subjects.fast_llm.config import choose_compiler, list_variants, loops_over_experts, make_variant_updates

DENSE = SimpleNamespace(mixer=SimpleNamespace(implementation="auto", window_size=None), mlp=SimpleNamespace())
SPARSE = SimpleNamespace(mixer=DENSE.mixer, mlp=SimpleNamespace(experts=8))
HYBRID = SimpleNamespace(mixer=SimpleNamespace(), mlp=SimpleNamespace(routed=SPARSE.mlp))
DECODER = ("base_model", "decoder")


def config(**decoder: Any) -> Any:
    return SimpleNamespace(base_model=SimpleNamespace(decoder=SimpleNamespace(**decoder)))


def request(**rest: Any) -> TraceRequest:
    return TraceRequest("checkpoint", "inputs", "output", **rest)


def test_updates_reach_every_block_that_has_the_choice() -> None:
    both = request(variant={"attention": "backup", "moe": "looped"})
    assert make_variant_updates(both, config(block=SPARSE)) == {
        (*DECODER, "block", "mixer", "implementation"): "backup",
        (*DECODER, "block", "mlp", "implementation"): "looped",
    }
    assert make_variant_updates(both, config(blocks={"a": DENSE, "b": HYBRID})) == {
        (*DECODER, "blocks", "a", "mixer", "implementation"): "backup",
        (*DECODER, "blocks", "b", "mlp", "routed", "implementation"): "looped",
    }
    assert make_variant_updates(request(), config(block=SPARSE)) == {}


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ({"moe": "looped"}, "without experts"),
        ({"moe": "sparse"}, "moe=sparse"),
        ({"experts": "eager"}, "experts=eager"),
        ({"attention": "sdpa_nested"}, "needs cuda"),
        ({"attention": "flash"}, "needs cuda"),
    ],
)
def test_a_choice_that_cannot_run_is_refused_before_loading(variant: dict[str, str], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        make_variant_updates(request(variant=variant), config(block=DENSE))


def test_a_model_of_recurrences_alone_has_no_attention_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.subjects.fast_llm.config._find_moe_need", lambda _: "triton")
    recurrent = SimpleNamespace(mixer=SimpleNamespace(), mlp=SimpleNamespace())
    assert not [variant for variant in list_variants(config(block=recurrent)) if variant.axis == "attention"]
    both = config(blocks={"a": DENSE, "b": recurrent})
    assert [variant.name for variant in list_variants(both) if variant.axis == "attention" and not variant.needs]


def test_looping_over_experts_is_known_before_loading() -> None:
    assert loops_over_experts(request(variant={"moe": "looped"}), config(block=SPARSE))
    assert not loops_over_experts(request(), config(block=DENSE))


def test_functions_are_compiled_on_cuda_and_on_request() -> None:
    assert choose_compiler(request()) == "eager"
    assert choose_compiler(request(device="cuda")) == "inductor"
    assert choose_compiler(request(variant={"compile": "inductor"})) == "inductor"
