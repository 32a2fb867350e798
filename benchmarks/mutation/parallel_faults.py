"""Faults of parallelism, planted one at a time into the reference.

Each stands for faults that real projects have shipped; where one has a public thread, the comment before it says which.
"""

from __future__ import annotations

from benchmarks.mutation import parallel_replacements, resume_replacements, step_replacements
from benchmarks.mutation.training_fault import Replacement, TrainingFault, parallel_fault, replace_with

PARALLEL_FAULTS: tuple[TrainingFault, ...] = (
    # https://github.com/NVIDIA/Megatron-LM/issues/1464
    parallel_fault(
        "gradients are not summed over data ranks",
        *("dp2", "llama", r"sum over the data ranks is missing|ranks 0 and 1 hold different"),
        replace_with("training_step:reduce_over_data", step_replacements.reduce_nothing),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/1464",
    ),
    parallel_fault(
        "gradients are averaged after the loss was",
        *("dp2", "llama", "divided by the data ranks"),
        replace_with("training_step:reduce_over_data", step_replacements.reduce_mean),
    ),
    parallel_fault(
        "vectors are left out of the reduction",
        *("dp2", "mistral", "norm.*(data rank 0|ranks 0 and 1)"),
        replace_with("training_step:reduce_over_data", step_replacements.reduce_matrices),
    ),
    parallel_fault(
        "every data rank reads the same documents",
        *("dp2", "llama", "every data rank computes the documents of rank 0"),
        replace_with("training_rank:choose_documents", step_replacements.same_documents),
    ),
    # https://github.com/huggingface/transformers/issues/34191
    parallel_fault(
        "the loss is divided by a rank's own tokens",
        *("dp2", "llama", "local tokens"),
        replace_with("training_step:RankTrainer.count_tokens", step_replacements.tokens_of_rank),
        thread="https://github.com/huggingface/transformers/issues/34191",
    ),
    parallel_fault(
        "gradients are clipped before they are summed",
        *("dp2", "llama", "clipped before the sum"),
        Replacement("training_step:reduce_gradients", step_replacements.clip_before_sum),
        Replacement("training_rank:run_step", step_replacements.tell_clip_limit),
    ),
    parallel_fault(
        "gradients are reduced after every micro-batch",
        *("dp2_accumulate2", "llama", "documents count|data rank"),
        Replacement("training_step:RankTrainer._run_backward", step_replacements.reduce_each_document),
    ),
    parallel_fault(
        "a model copy starts from other weights",
        *("dp2", "qwen2", "ranks 0 and 1 hold different"),
        Replacement("training_rank:cut_parameter", parallel_replacements.other_start),
    ),
    parallel_fault(
        "a rank stops in the middle of a step",
        *("dp2", "llama", "rank 1"),
        Replacement("training_rank:run_step", step_replacements.stop_second_rank),
    ),
    parallel_fault(
        "the attention's output is not summed over tensor ranks",
        *("tp2", "mistral", "layer 0, attention output projection.*all-reduce over tensor ranks 0, 1 is missing"),
        replace_with("sharded_model:ShardedModel._project_output", parallel_replacements.project_without_sum),
    ),
    parallel_fault(
        "the MLP's output is not summed over tensor ranks",
        *("tp2", "mistral", "layer 0, MLP.*all-reduce over tensor ranks 0, 1 is missing"),
        replace_with("sharded_model:ShardedModel._leave", lambda _, tensor: tensor),
        replace_with("sharded_model:ShardedModel._project_output", parallel_replacements.project_with_sum),
    ),
    parallel_fault(
        "the experts' output is not summed over tensor ranks",
        *("tp2", "mixtral", "layer 0, MLP.*all-reduce over tensor ranks 0, 1 is missing"),
        replace_with("sharded_model:ShardedModel._leave", lambda _, tensor: tensor),
        replace_with("sharded_model:ShardedModel._project_output", parallel_replacements.project_with_sum),
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/673
    parallel_fault(
        "gradients of replicated parameters are not summed over tensor ranks",
        *("tp2", "llama", "ranks 0 and 1 hold different copies.*tensor"),
        replace_with("sharded_model:ShardedModel._enter", lambda _, tensor: tensor),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/673",
    ),
    parallel_fault(
        "embeddings of a cut vocabulary are not summed",
        *("tp2", "qwen2", "token embeddings.*all-reduce over tensor ranks 0, 1 is missing"),
        replace_with("sharded_model:ShardedModel.embed", parallel_replacements.embed_without_sum),
    ),
    parallel_fault(
        "the cross entropy is normalised over a rank's part of the vocabulary",
        *("tp2", "llama", "loss is wrong.*vocabulary"),
        replace_with("sharded_model:ShardedModel.sum_cross_entropy", parallel_replacements.cross_entropy_local),
    ),
    parallel_fault(
        "a bias is added by every tensor rank before the sum",
        *("tp2", "llama", "layer 0, attention output projection.*bias"),
        replace_with("sharded_model:ShardedModel._project_output", parallel_replacements.project_bias_inside),
    ),
    parallel_fault(
        "parts are put together in the wrong order",
        *("tp2", "llama", "wrong order"),
        Replacement("training_gather:join_parameter", lambda original: lambda p, parts: original(p, list(parts)[::-1])),
    ),
    parallel_fault(
        "every tensor rank holds the first rank's keys and values",
        *("tp2", "llama", "layer 0, (key|value).*rank 1"),
        Replacement("training_rank:cut_parameter", parallel_replacements.cut_same_key_value),
    ),
    parallel_fault(
        "a rank's part of the vocabulary begins one row late",
        *("tp2", "llama", "token embeddings"),
        Replacement("sharded_model:shift_ids", parallel_replacements.shift_second_rank),
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/5916
    parallel_fault(
        "the router's gradient is not summed over tensor ranks",
        *("tp2", "mixtral", r"router|gate\.weight"),
        Replacement("sharded_model:ShardedModel._enter", parallel_replacements.enter_but_scores),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/5916",
    ),
    parallel_fault(
        "dropout with a seed of each rank",
        *("tp2", "llama", "token embeddings.*rank 0, 1"),
        Replacement("sharded_model:ShardedModel.embed", parallel_replacements.embed_with_dropout),
    ),
    parallel_fault(
        "the norm counts replicated parameters once a rank",
        *("tp2", "llama", "every tensor rank holds count once a rank"),
        replace_with("training_step:counts_for_norm", lambda _, __: True),
    ),
    parallel_fault(
        "the norm is not summed over tensor ranks",
        *("tp2", "llama", "tensor rank 0's part|ranks 0 and 1 hold different"),
        replace_with("training_step:compute_gradient_norm", step_replacements.norm_over_axes("pipeline")),
    ),
    parallel_fault(
        "the norm is not summed over stages",
        *("pp2", "llama", "only stage 0's parameters|ranks 0 and 1"),
        replace_with("training_step:compute_gradient_norm", step_replacements.norm_over_axes("tensor")),
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/7452
    parallel_fault(
        "the gradient of tied embeddings is not summed over both stages",
        *("pp2_tied", "qwen2", r"embed_tokens\.weight.*lookup"),
        replace_with("training_step:reduce_tied_gradient", lambda _, __: None),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/7452",
    ),
    # https://github.com/NVIDIA/Megatron-LM/issues/656
    parallel_fault(
        "the norm counts tied embeddings on both stages",
        *("pp2_tied", "qwen2", "tied embeddings count on both stages"),
        Replacement("training_step:counts_for_norm", step_replacements.count_both_ends),
        thread="https://github.com/NVIDIA/Megatron-LM/issues/656",
    ),
    parallel_fault(
        "no gradient goes back to the stage before",
        *("pp2", "llama", r"gradient of model\.(embed_tokens|layers\.0).*zero"),
        Replacement("rank_groups:RankGroups.send", step_replacements.send_zeros_back),
    ),
    parallel_fault(
        "the gradient between stages is divided by the micro-batches once more",
        *("pp2", "llama", r"gradient of model\.(embed_tokens|layers\.0).*0\.5 times.*(stages|micro-batches)"),
        Replacement("rank_groups:RankGroups.send", step_replacements.halve_gradient_back),
    ),
    parallel_fault(
        "updated slices are not gathered",
        *("zero2", "llama", "slice of data rank 1 is not updated|ranks 0 and 1 hold different"),
        replace_with("adamw:AdamW.update", step_replacements.update_own_slice),
    ),
    parallel_fault(
        "slices are gathered in the wrong order",
        *("zero2", "llama", "slices of the data ranks are gathered in the wrong order"),
        Replacement("rank_groups:RankGroups.gather_slices", step_replacements.gather_reversed),
    ),
    parallel_fault(
        "gradients are cut into other slices than moments",
        *("zero2", "llama", "another rank's slice of the gradient"),
        Replacement("adamw:AdamW.update", step_replacements.cut_next_slice),
    ),
    parallel_fault(
        "the balancing loss is summed over documents",
        *("dp2", "mixtral", "balancing loss is summed over the 2 documents"),
        replace_with("training_step:RankTrainer.scale_balancing_loss", lambda self, term: self.auxiliary_loss * term),
        check="balancing",
    ),
    parallel_fault(
        "slices of the state are lost when it is saved",
        *("zero2", "llama", "next step after zero2"),
        Replacement("training_checkpoint:join_slices", resume_replacements.repeat_first_slice),
        check="conversion",
    ),
)
"""Each with the layout in which it must be caught, and the words by which the diagnosis names it."""
