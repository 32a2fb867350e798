"""The smallest adapter: a toy trainer that takes transformers' own Llama, written from `docs/adapters.md` alone.

hub-tests subject check examples/toy_adapter.py:ToySubject
hub-tests subject check examples/toy_adapter.py:ToySubjectWithABug     must be red
"""

from __future__ import annotations

import time
from typing import Any

from hub_tests.subject import (
    ConvertRequest,
    ConvertResult,
    Description,
    ExportRequest,
    SubjectOffer,
    TraceRequest,
    TraceResult,
    UnsupportedError,
    Variant,
    installed_versions,
    python_version,
)


class ToySubject:
    """A trainer that loads Hugging Face directories itself, and writes none."""

    offer = SubjectOffer(*("toy", "transformers", ("llama",), ()), gradients=False, converts=False, exports=False)

    def describe(self) -> Description:
        """Return the version and the formats."""
        versions = installed_versions(("torch", "transformers"))
        return Description("toy", versions["transformers"], None, python_version(), versions, self.offer.formats)

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:  # noqa: ARG002
        """Return nothing: there is one implementation of each part."""
        return ()

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Refuse: the offer says that nothing is converted."""
        raise UnsupportedError(f"toy: it reads {request.source} itself")

    def export(self, request: ExportRequest) -> ConvertResult:
        """Refuse: the offer says that nothing is exported."""
        raise UnsupportedError(f"toy: it does not write {request.target}")

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the model with hooks on its modules."""
        from hub_tests.torch_trace import ModelModules, trace_modules

        if request.variant:
            raise UnsupportedError(f"toy: it has no variants, {dict(request.variant)} was asked for")
        started = time.perf_counter()
        model = self.load(request)
        modules = ModelModules(
            embeddings=model.model.embed_tokens,
            blocks=tuple(model.model.layers),
            final_norm=model.model.norm,
            operations={
                "norm_1": "input_layernorm",
                "mixer": "self_attn",
                "norm_2": "post_attention_layernorm",
                "mlp": "mlp",
            },
            operation_inputs={"mixer.context": "self_attn.o_proj", "mixer_residual": "post_attention_layernorm"},
        )
        loaded = time.perf_counter() - started
        return trace_modules(request, modules, lambda ids: model(ids).logits, ran={}, load_seconds=loaded)

    def load(self, request: TraceRequest) -> Any:
        """Load the model in the request's dtype."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(request.checkpoint, dtype=getattr(torch, request.dtype))
        return model.to(request.device).eval()

    def release(self) -> None:
        """Do nothing: no model is kept."""


class ToySubjectWithABug(ToySubject):
    """The same with a slightly wrong kernel: the last block's MLP is 1 % too large."""

    def load(self, request: TraceRequest) -> Any:
        """Load the model, and scale one weight."""
        model = super().load(request)
        model.model.layers[-1].mlp.down_proj.weight.data *= 1.01
        return model
