"""Every architecture of the installed transformers, at small widths: the first layers alone against those of the whole.

The whole model is saved, truncated by the code that truncates a repository, loaded with no tensor missing or too much,
and run: its last layer must give what this layer gives in the whole model. A quick choice runs always, all of them in
the long tests.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from ci.errors import NotTruncatableError
from ci.hub.model_config import parse_config
from tests.ci.hub import tiny_models

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.layers import LayerRequest

QUICK = {
    *("llama", "mixtral", "qwen2", "gemma2", "gemma3_text", "deepseek_v3", "gpt_oss", "qwen3_next", "olmo3", "phi3"),
    *("glm4_moe", "gpt2", "opt", "jamba", "llava", "minicpm3", "bart", "mamba2", "nemotron_h", "qwen3_5_text"),
}
NO_MODEL = {
    *("apertus1p5", "chameleon", "cohere_compass", "cohere_compass_text", "cosmos3_edge", "cosmos3_omni", "dbrx"),
    *("deepseek_ocr2", "diffusion_gemma", "dory", "dots1", "dots3_note", "dots3_note_text", "emu3", "ernie4_5_vl_moe"),
    *("fun_asr_nano", "gemma3n", "gemma3n_text", "gemma4", "gemma4_assistant", "gemma4_unified", "glm5_next"),
    *("gemma4_unified_assistant", "granite4_vision", "hy_v4_vl", "hunyuan_vl", "llama4", "longcat_flash", "reformer"),
    *("qwen3_omni_moe", "qwen4_exp", "qwen4_exp_text", "step3p7", "unlimited_ocr", "zamba", "florence2", "muse_spark"),
    *("blip", "blip-2", "blt", "idefics", "instructblip", "instructblipvideo", "kosmos-2", "pix2struct", "pi0", "udop"),
    *("inkling_mm_model", "fast_vlm", "perception_lm", "musicgen", "musicgen_melody", "pp_formulanet", "t5gemma2"),
    *("vision-encoder-decoder", "voxtral_realtime", "vibevoice_asr", "kyutai_speech_to_text", "qwen2_5_omni", "xmod"),
    *("shieldgemma2", "whisper"),
}
"""No small model of these runs on token ids alone: sizes that must fit each other, images, other libraries."""
REFUSED = {
    *("evolla", "gpt_neox_japanese", "hrm_text", "inkling2", "inkling2_loop", "inkling2_loop_text", "inkling2_text"),
    "nemo_speechlm",
}
"""Refused by name, as a limit of hub-tests."""
MORE_LAYERS = {
    "granite_docling": 3,
    "olmo_hybrid": 4,
    "qwen3_omni_moe_thinker": 3,
    "qwen3_vl": 3,
    "qwen3_vl_moe": 3,
    "gemma4_text": 6,
    "gemma4_unified_text": 6,
}
"""Two layers of these cannot be run alone; the message names the fewest."""
LISTED_WITH = "5.24."
TYPES = sorted(set(tiny_models.list_model_types()) - NO_MODEL)


def check(model_type: str, layers: LayerRequest, directory: Path) -> int:
    """Truncate, load, run and compare; return how many layers were kept."""
    import torch

    whole = tiny_models.make_model(model_type, directory / "whole")
    selection = tiny_models.truncate(directory / "whole", directory / f"cut-{layers}", layers)
    count = selection.choice.layers
    cut, problems = tiny_models.load(model_type, directory / f"cut-{layers}")
    assert not problems
    stacks = parse_config((directory / "whole" / "config.json").read_text(), what=model_type).stacks
    depth = next((stack.depth for stack in stacks if stack.side != "decoder"), stacks[0].depth)
    last = min(count, depth) - 1
    ids = torch.arange(1, 17)[None] * 5 % 100
    expected = tiny_models.run_layers(whole, depth, last, ids)
    actual = tiny_models.run_layers(cut, last + 1, last, ids)
    # A decoder also reads the encoder's last layer, which is another one in the truncated model.
    decoders = "decoder" if whole.config.is_encoder_decoder else "\n"
    lists = [name for name in expected if name in actual and name != "logits" and decoders not in name]
    assert lists, "nothing was compared"
    for name in lists:
        assert expected[name].abs().max() > 0
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)
    return count


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in TYPES]
)
def test_the_first_layers_alone_are_the_first_layers_of_the_whole(model_type: str, tmp_path: Path) -> None:
    if model_type in REFUSED:
        with pytest.raises(NotTruncatableError) as refused:
            check(model_type, 2, tmp_path)
        assert "\n" not in str(refused.value)
    elif model_type in MORE_LAYERS:
        with pytest.raises(NotTruncatableError, match=f"{MORE_LAYERS[model_type]} "):
            check(model_type, 2, tmp_path / "two")
        assert check(model_type, "auto", tmp_path / "auto") == MORE_LAYERS[model_type]
    else:
        assert check(model_type, 2, tmp_path) == 2


def test_most_architectures_are_right_and_the_others_are_refused_by_name() -> None:
    if not version("transformers").startswith(LISTED_WITH):
        assert len(set(TYPES) - REFUSED) >= 150
        return
    assert set(tiny_models.list_model_types()) >= NO_MODEL | REFUSED | MORE_LAYERS.keys() | QUICK
    assert len(TYPES) >= 232
    assert len(set(TYPES) - REFUSED) >= 226
