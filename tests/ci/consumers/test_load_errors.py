"""The words of vLLM 0.32 and transformers 5 for faults of loading, and the class of each."""

import pytest

from ci.consumers.load_errors import SENTENCES, LoadFault, find_load_fault
from ci.equivalence.served_verdict import FAILURES


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("ValueError: Model architectures ['LamaForCausalLM'] are not supported for now.", "architecture_refused"),
        (
            "ValueError: The checkpoint has model type `lama` but Transformers does not recognize this architecture.",
            "architecture_refused",
        ),
        ("ValueError: Unrecognized model in /x. Should have a `model_type` key", "architecture_refused"),
        (
            "ValueError: Following weights were not initialized from checkpoint: {'model.layers.1.mlp.down.weight'}",
            "tensor_missing",
        ),
        ("ValueError: There is no module or parameter named 'model.layers.1.mlp.gate_projection'", "tensor_missing"),
        ("KeyError: 'layers.1.mlp.gate_projection.weight'", "tensor_missing"),
        ("SubjectError: tensors are missing: model.layers.1.mlp.gate_proj.weight", "tensor_missing"),
        ("RuntimeError: Cannot find any model weights with `/x`", "tensor_missing"),
        ("RuntimeError: The size of tensor a (128) must match the size of tensor b (256)", "shape_mismatch"),
        ("RuntimeError: You set `ignore_mismatched_sizes` to `False`, thus raising an error", "shape_mismatch"),
        (
            "AssertionError: Attempted to load weight (torch.Size([256])) into parameter (torch.Size([128]))",
            "shape_mismatch",
        ),
        ("ValueError: Unknown RoPE scaling type yarn3", "config_unknown"),
        ("KeyError: 'rope_type'", "config_unknown"),
        (
            (
                "ValueError: The decoder prompt (length 272) is longer than the maximum model length of 64. Make sure "
                "that `max_model_len` is no smaller than the number of text tokens."
            ),
            "context_short",
        ),
        ("OSError: Can't load tokenizer for '/x'", "tokenizer_absent"),
        ("RuntimeError: Engine core initialization failed.", "other"),
    ],
)
def test_a_fault_is_known_by_its_words(message: str, fault: LoadFault) -> None:
    assert find_load_fault(message) == fault


def test_every_class_has_a_sentence_and_a_failure() -> None:
    assert set(SENTENCES) == set(FAILURES)
