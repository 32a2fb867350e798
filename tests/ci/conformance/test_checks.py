"""The toy adapter of the examples conforms; adapters with one fault each are found out, by the check that is meant."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ci.conformance.checks import CheckResult, ConformanceCheck
from ci.subjects.open_subject import open_subject
from ci.subjects.registry import find_offer

EXAMPLES = Path(__file__).parents[3] / "examples"
TOY = f"{EXAMPLES / 'toy_adapter.py'}:ToySubject"
FAULTS = {
    "a constant factor": ("ToySubjectWithABug", "", "llama: forward in float32", "layer 2, MLP"),
    "another name": (
        "Other",
        "def describe(self): return replace(super().describe(), subject='x')",
        "description",
        "x",
    ),
    "a variant that nobody offers": (
        "Other",
        "def variants(self, checkpoint): return (Variant('attention', 'secret'),)",
        "llama: variants",
        "attention=secret, the offer does not",
    ),
    "any variant is taken": (
        "Other",
        "def trace(self, request): return super().trace(replace(request, variant={}))",
        "unknown variant is refused",
        "it was accepted",
    ),
    "weights of its own": (
        "Other",
        (
            "def load(self, request):\n"
            "        model = super().load(request)\n"
            "        import torch\n"
            "        model.model.norm.weight.data += 1e-3 * torch.rand(model.model.norm.weight.shape)\n"
            "        return model"
        ),
        "llama: repeat",
        "final_norm differs from one run to the next",
    ),
}


def run_checks(name: str, workdir: Path) -> dict[str, CheckResult]:
    check = ConformanceCheck(find_offer(name), lambda seconds: open_subject(name, timeout=seconds), workdir)
    return {result.name: result for result in check.run()}


def test_a_sound_adapter_conforms(tmp_path: Path) -> None:
    results = run_checks(TOY, tmp_path)
    assert [result for result in results.values() if result.passed is not True] == []
    assert "llama: planted bug" in results
    assert "took longer" in results["time-out"].said
    assert all("\n" not in result.said for result in results.values())


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_own_check(fault: str, tmp_path: Path) -> None:
    kind, method, check, said = FAULTS[fault]
    adapter = tmp_path / "faulty_adapter.py"
    code = (EXAMPLES / "toy_adapter.py").read_text() + "\n\nfrom dataclasses import replace\n"
    adapter.write_text(code + (f"class Other(ToySubject):\n    {method}\n" if method else ""))
    sys.modules.pop("faulty_adapter", None)
    results = run_checks(f"{adapter}:{kind}", tmp_path)
    assert results[check].passed is False
    assert said in results[check].said
