"""Every special path of the thirteen formats, and the bugs that are planted in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.ci.subjects.reference import test_planted_bugs as gemma
from tests.ci.subjects.reference import test_planted_local_bugs as local
from tests.ci.subjects.reference import test_planted_mamba_bugs as mamba
from tests.ci.subjects.reference import test_planted_own_bugs as own
from tests.ci.subjects.reference import test_planted_plain_bugs as plain
from tests.ci.subjects.reference.planting import PlantedBug, in_weights

GEMMA_PATHS = {
    "Gemma 4: norms of query, key and value": ("query norm", "key norm"),
    "Gemma 4: proportional RoPE": ("whole heads rotate", "divide_by_rotated"),
    "Gemma 4: sliding and full layers, head sizes": ("a window of one more", "scores divided"),
    "Gemma 4: norms after attention and MLP": ("norm after the", "norm after the MLP"),
    "Gemma 4: dense MLP beside experts": ("dense MLP", "dense norm", "before the experts", "after the experts"),
    "Gemma 4: router's scales": ("router", "factor of an expert", "keep_scale", "renormalize_after"),
    "Gemma 4: a scalar for each layer": ("scalar",),
    "Gemma 4: scale of the embeddings": ("embedding scale",),
    "Gemma 4: softcap of the logits": ("softcap",),
    "Gemma 4: value without weights, shared with the key": ("keep_value", "scale_value"),
}
"""Words in the names of Gemma 4's bugs, by path; of several that fit, the last one counts."""
SEEING_PATHS = {
    "llava: RoPE of two dimensions": ("axes of RoPE", "RoPE along"),
    "llava: projector": ("projector",),
    "llava: image tokens": ("features",),
    "llava: several images": ("images attend", "causal tower"),
}
SEEING_REST = "llava: patches, norms and blocks of the tower"
GATED, KIMI, SEVERAL = "gated delta net", "Kimi delta attention", "apriel2: several mixers in a block"
OWN_PATHS = {own.NET: GATED, own.SIGMOID: KIMI, own.MTP: "mtp_llama: several prediction heads"}
FORMATS = {
    "Gemma 4": "gemma4",
    "llava": "llava, apriel2, llava_hybrid_ssm",
    "plain layers": "llama, mistral, qwen2",
    "delta rules": "apriel2_text, apriel2",
    "gated delta net": "apriel2_text, apriel2",
    "Kimi delta attention": "apriel2_text, apriel2",
    "apriel2": "apriel2_text, apriel2",
    "mtp_llama": "mtp_llama",
    "dream, diffusion_llama": "dream, diffusion_llama",
    "Llama": "llama",
    "Mistral-Nemo": "mistral",
    "Qwen2": "qwen2",
    "Mixtral": "mixtral",
    "sliding window": "mistral, mixtral, apriel2_text, gemma4",
    "Mamba": "apriel_hybrid_ssm, llava_hybrid_ssm, apriel2_text",
}
"""The formats that have a path, by how its name begins."""


@dataclass(frozen=True)
class SpecialPath:
    """One special path: its name, the formats that have it, and its bugs."""

    name: str
    bugs: tuple[PlantedBug, ...]

    @property
    def formats(self) -> str:
        """The formats of the path, in words."""
        return next(formats for start, formats in FORMATS.items() if self.name.startswith(start))


def list_bugs() -> list[PlantedBug]:
    """Every planted bug, with its path."""
    return [*plain.BUGS, *_list_gemma(), *map(_find_own_path, own.BUGS), *mamba.BUGS, *local.BUGS]


def list_paths() -> list[SpecialPath]:
    """Every special path with its bugs, in the order of the bugs."""
    bugs = list_bugs()
    names = dict.fromkeys(bug.path for bug in bugs)
    return [SpecialPath(name, tuple(bug for bug in bugs if bug.path == name)) for name in names]


def _list_gemma() -> list[PlantedBug]:
    changes = [PlantedBug(gemma.CASE, n, in_weights(change), op) for n, (change, op) in gemma.BUGS.items()]
    functions = [PlantedBug(gemma.CASE, plant.__name__, plant, op) for plant, op in gemma.FUNCTION_BUGS]
    return [replace(bug, path=_match(bug.name, GEMMA_PATHS)) for bug in (*changes, *functions)]


def _find_own_path(bug: PlantedBug) -> PlantedBug:
    if bug.case == own.SEEING:
        return replace(bug, path=_match(bug.name, SEEING_PATHS) or SEEING_REST)
    path = SEVERAL if bug.name == "another mixer runs" else OWN_PATHS.get(bug.case)
    return replace(bug, path=path or "dream, diffusion_llama: attention both ways")


def _match(name: str, paths: dict[str, tuple[str, ...]]) -> str:
    found = [path for path, words in paths.items() if any(word in name for word in words)]
    return found[-1] if found else ""
