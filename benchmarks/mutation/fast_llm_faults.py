"""Faults of parallelism and of training steps, as edits of a copy of Fast-LLM, and what their diagnosis should say.

They are written for Fast-LLM 0.4.0, commit 7d61a1b: an edit whose place has moved cannot run, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.replay.records import Substitution

FSDP = "fast_llm/engine/multi_stage/fsdp.py"
STAGE = "fast_llm/engine/multi_stage/stage_base.py"
MODEL = "fast_llm/engine/multi_stage/fast_llm_model.py"
OPTIMIZER = "fast_llm/engine/optimizer/optimizer.py"
RUNNER = "fast_llm/engine/schedule/runner.py"
LINEAR = "fast_llm/functional/linear.py"
DOCUMENT = "fast_llm/data/document/language_model.py"
ATTENTION = "fast_llm/layers/attention/attention.py"
EMBEDDING = "fast_llm/layers/language_model/embedding.py"
ENTROPY = "fast_llm/functional/entropy_loss.py"
NORM = "fast_llm/layers/common/normalization/normalization.py"
KERNELS = "fast_llm/core/kernels.py"
TENSOR = "fast_llm/tensor.py"
EXPERTS = "fast_llm/layers/decoder/mlp/mixture_of_experts.py"
CHECKPOINT = "fast_llm/engine/checkpoint/distributed.py"

MEND_DOUBLE_STEP = Substitution(
    KERNELS, r"torch\.full\(\[len\(params\)\], step,", "torch.full([len(params)], step - 1,"
)
"""Fast-LLM counts AdamW's step twice without Apex (docs/findings.md): no run is green before that is mended."""


@dataclass(frozen=True)
class FastLLMFault:
    """One edit: its name, the layout and model that run it, the check that must fail, and words of the diagnosis."""

    name: str
    kind: Literal["parallelism", "training step"]
    layout: str
    edits: tuple[Substitution, ...]
    named: str
    model: str = "llama"
    check: Literal["training", "resume", "conversion"] = "training"


def _edit(file: str, pattern: str, replacement: str, count: int = 1) -> tuple[Substitution, ...]:
    return (Substitution(file, pattern, replacement, count),)


_REDUCE_SCATTER = r"reduce_scatter_tensor\(\s+out,\s+self\._grad_buffer,\s+group=self\._fsdp_group,\s+op=[\w.]+,\s+\)"
_LABELS = r"sum\(model_input\.num_labels for model_input in model_inputs\),\s+dtype=torch\.int32,\s+group=[\w.]+,"

FAULTS: tuple[FastLLMFault, ...] = (
    FastLLMFault(
        "gradients are not reduced over data ranks",
        "parallelism",
        "dp2",
        _edit(FSDP, _REDUCE_SCATTER, "out.copy_(self._grad_buffer_local_shard)"),
        "every data rank",
    ),
    FastLLMFault(
        "gradients are summed over data ranks, not averaged",
        "parallelism",
        "dp2",
        _edit(FSDP, r"ReduceOp\.AVG", "ReduceOp.SUM"),
        "each data rank",
    ),
    FastLLMFault(
        "gradients of norms are not reduced under sequence-tensor parallelism",
        "parallelism",
        "stp2",
        _edit(FSDP, r"if self\._sequence_parallel_grads is not None and distributed\.tensor_group:", "if False:"),
        "norm|bias|rank",
    ),
    FastLLMFault(
        "the tied embedding's gradient is not reduced over pipeline ranks",
        "parallelism",
        "pp2_tied",
        _edit(RUNNER, r"all_reduce\(fsdp\.grad_shard, group=tied_parameter\.group\)", "pass"),
        "embed",
        model="qwen2",
    ),
    FastLLMFault(
        "the tied embedding's gradient is counted on each pipeline rank",
        "parallelism",
        "pp2_tied",
        _edit(
            RUNNER,
            r"all_reduce\(fsdp\.grad_shard, group=tied_parameter\.group\)",
            "(all_reduce(fsdp.grad_shard, group=tied_parameter.group), fsdp.grad_shard.mul_(2))",
        ),
        "embed",
        model="qwen2",
    ),
    FastLLMFault(
        "the loss is divided by the rank's own tokens",
        "parallelism",
        "dp2",
        _edit(DOCUMENT, _LABELS, "sum(each.num_labels for each in model_inputs), dtype=torch.int32, group=None,"),
        "loss|token",
    ),
    FastLLMFault(
        "the row-parallel projection's output is not reduced",
        "parallelism",
        "tp2",
        _edit(
            LINEAR,
            r"output = \(reduce_scatter_op if sequence_parallel else reduce_op\)\(output, group=group\)",
            "output = reduce_scatter_op(output, group=group) if sequence_parallel else output",
        ),
        "attention output projection|all-reduce",
    ),
    FastLLMFault(
        "the column-parallel projection's input gradient is not reduced",
        "parallelism",
        "tp2",
        _edit(
            LINEAR,
            r"\(reduce_scatter_op if \w+ else reduce_op\)\(\s+grad_input, group=group, async_op=True\s+\)",
            "(reduce_scatter_op if sequence_parallel else reduce_op)("
            "grad_input, group=group if sequence_parallel else None, async_op=True)",
        ),
        "reduction over it",
    ),
    FastLLMFault(
        "the row-parallel projection's bias is added on each tensor rank",
        "parallelism",
        "tp2",
        _edit(LINEAR, r"None if group else bias", "bias"),
        "bias counts",
    ),
    FastLLMFault(
        "embeddings are not reduced over tensor ranks",
        "parallelism",
        "tp2",
        _edit(EMBEDDING, r"embeddings = reduce_forward\(embeddings, group\)", "pass"),
        "embed",
    ),
    FastLLMFault(
        "the softmax's sum is not reduced over the cut vocabulary",
        "parallelism",
        "tp2",
        _edit(ENTROPY, r"all_reduce\(sum_exp_logits, op=ReduceOp\.SUM, group=group\)", "pass"),
        "head|logits|vocab",
    ),
    FastLLMFault(
        "the label's logit is not reduced over the cut vocabulary",
        "parallelism",
        "tp2",
        _edit(ENTROPY, r"all_reduce\(predicted_logits, op=ReduceOp\.SUM, group=group\)", "pass", 2),
        "head|logits|vocab",
    ),
    FastLLMFault(
        "gradients of keys and values are not reduced over sequence-data ranks",
        "parallelism",
        "sdp2",
        _edit(
            ATTENTION,
            r"key_value_grad,\s+group=self\._sequence_data_parallel_dim\.group,\s+dim=0,\s+async_op=True,\s+\)",
            "key_value_grad.chunk(2)[g.rank()] if (g := self._sequence_data_parallel_dim.group) else key_value_grad,"
            " group=None, dim=0, async_op=True)",
        ),
        "k_proj|v_proj|attention|sequence",
    ),
    FastLLMFault(
        "the gradient's norm is that of one rank",
        "parallelism",
        "zero2",
        _edit(OPTIMIZER, r"if self\._reduce_group:\s+# Sum across GPUs\.", "if False:"),
        "norm",
    ),
    FastLLMFault(
        "the gradient's norm counts replicated parameters on each tensor rank",
        "parallelism",
        "tp2",
        _edit(STAGE, r"if self\._distributed_config\.tensor_rank == 0\n", "if True\n"),
        "norm",
    ),
    FastLLMFault(
        "the gradient's norm counts cut parameters of the first tensor rank alone",
        "parallelism",
        "tp2",
        _edit(STAGE, r"else \[name for name in fsdp\.parameter_names if [^\]]+\]", "else []"),
        "norm",
    ),
    FastLLMFault(
        "weights are cut in the wrong order of ranks on loading a checkpoint",
        "parallelism",
        "tp2",
        _edit(
            CHECKPOINT,
            r"path = config\.path / f\"rank_\{rank\}\.safetensors\"",
            'path = config.path / f"rank_{loaded_metadata.config.distributed.world_size - 1 - rank}.safetensors"',
        ),
        "weight.*(rank|order)|rank_",
        check="conversion",
    ),
    FastLLMFault(
        "micro-batches overwrite the gradient of matrices",
        "training step",
        "accumulate2",
        _edit(
            LINEAR,
            r"beta = 1 - param_get_and_unset_is_zero\(weight\)",
            "beta = 0 * param_get_and_unset_is_zero(weight)",
        ),
        "micro|document|accumul",
    ),
    FastLLMFault(
        "micro-batches overwrite the gradient of norms and biases",
        "training step",
        "accumulate2",
        _edit(
            TENSOR,
            r"triton_add\(grad, param\.grad_buffer, out=param\.grad_buffer\)",
            "triton_copy(grad, param.grad_buffer)",
        ),
        "micro|document|accumul",
    ),
    FastLLMFault(
        "the loss is divided by the first micro-batch's tokens",
        "training step",
        "accumulate2",
        _edit(DOCUMENT, _LABELS, "model_inputs[0].num_labels, dtype=torch.int32, group=distributed.batch_data_group,"),
        "loss|token",
    ),
    FastLLMFault(
        "masked tokens count in the loss",
        "training step",
        "single",
        _edit(DOCUMENT, r"labels\[span_begin:span_end\] = -100", "pass"),
        "loss|mask",
    ),
    FastLLMFault(
        "norms have weight decay",
        "training step",
        "single",
        _edit(NORM, r"weight_decay=False", "weight_decay=True", 3),
        "decay",
    ),
    FastLLMFault(
        "no parameter has weight decay",
        "training step",
        "single",
        _edit(STAGE, r"\(None if weight_decay else 0\.0\)", "0.0"),
        "decay",
    ),
    FastLLMFault(
        "the optimizer's betas are swapped",
        "training step",
        "single",
        _edit(OPTIMIZER, r"beta1=self\._config\.beta_1 if group", "beta1=self._config.beta_2 if group"),
        "beta|moment",
    ),
    FastLLMFault(
        "the gradient is not clipped",
        "training step",
        "tp2",
        _edit(OPTIMIZER, r"scale_\(self\._grads, self\._noop_flag, clip_coeff\)", "pass"),
        "clip",
    ),
    FastLLMFault(
        "the gradient is clipped twice",
        "training step",
        "dp2",
        _edit(
            OPTIMIZER,
            r"scale_\(self\._grads, self\._noop_flag, clip_coeff\)",
            "scale_(self._grads, self._noop_flag, clip_coeff ** 2)",
        ),
        "clip",
    ),
    FastLLMFault(
        "moments are lost on resume",
        "training step",
        "single",
        _edit(MODEL, r"reset_optimizer=not config\.optimizer_state", "reset_optimizer=True"),
        "moment|resume",
        check="resume",
    ),
    FastLLMFault(
        "the step count is lost on resume",
        "training step",
        "single",
        _edit(OPTIMIZER, r"self\._optimizer_step = state\[\"current_step\"\]", "self._optimizer_step = 0"),
        "step|resume",
        check="resume",
    ),
    FastLLMFault(
        "weights in use are not renewed after the update",
        "training step",
        "single",
        _edit(RUNNER, r"stage\.invalidate_buffer\(\)", "pass"),
        "step 2|before the update|not renewed",
    ),
    FastLLMFault(
        "the router gets no gradient from the chosen experts' scores",
        "training step",
        "single",
        _edit(
            EXPERTS,
            r"out = self\._mlp_forward\(expert_input, scores,",
            "out = self._mlp_forward(expert_input, scores.detach(),",
        ),
        "gate|router",
        model="mixtral",
    ),
    FastLLMFault(
        "the bias correction is left out",
        "training step",
        "single",
        _edit(KERNELS, r"step - 1, dtype", "step + 10**6, dtype"),
        "bias correction|not corrected",
    ),
)
