"""What Fast-LLM is said to offer, against the real one where there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ci.subjects.base import ConvertRequest
from ci.subjects.fast_llm import config
from ci.subjects.fast_llm.offer import OFFER
from ci.subjects.offer import NO_ATTENTION
from tests.ci.subjects.tiny import save_model

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject


def test_a_model_of_recurrences_alone_lacks_attention_where_a_format_may_have_such_models() -> None:
    assert NO_ATTENTION in OFFER.conditional_needs_of("apriel2")["attention=backup"]
    assert "flash-attn" in OFFER.conditional_needs_of("apriel2_text")["attention=flash"]
    for usual in ("llama", "gemma4"):
        assert NO_ATTENTION not in OFFER.conditional_needs_of(usual).get("attention=backup", ())


def test_its_formats_and_variants_are_those_of_the_real_one(fast_llm: Subject, tmp_path: Path) -> None:
    assert set(OFFER.formats) <= set(fast_llm.describe().formats)
    for name in ("llama", "mixtral"):
        source, converted = save_model(name, tmp_path / name), tmp_path / f"{name}.fast_llm"
        fast_llm.convert(ConvertRequest(str(source), str(converted), name))
        offered = [(variant.axis, variant.name) for variant in OFFER.variants_of(name)]
        assert [(variant.axis, variant.name) for variant in fast_llm.variants(str(converted))] == offered


@pytest.mark.parametrize("windowed", [None, 4096])
@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("installed", [{}, {"flash-attn": "2.8"}])
def test_every_need_of_an_attention_is_one_that_the_offer_names(
    cuda: bool, windowed: int | None, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report accepts no other reason for a variant that did not run."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr(config, "installed_versions", lambda _: installed)
    block = SimpleNamespace(mixer=SimpleNamespace(window_size=windowed), mlp=SimpleNamespace())
    for variant in OFFER.variants:
        if variant.axis == "attention":
            need = config._find_attention_need(variant.name, [((), block)])
            known = (None, variant.needs, *OFFER.conditional_needs.get(f"attention={variant.name}", ()))
            assert need in known
            assert not (cuda and need == "cuda")


def test_variants_that_always_need_a_gpu_say_so() -> None:
    assert {variant.name for variant in OFFER.variants if variant.needs == "cuda"} == {"sdpa_nested", "flash"}
