"""Faults of a training step, of saving and of resuming, planted one at a time into the reference.

Each stands for faults that real projects have shipped; where one has a public thread, the comment before it says which.
"""

from __future__ import annotations

from benchmarks.mutation import optimizer_replacements, resume_replacements, step_replacements
from benchmarks.mutation.training_fault import Replacement, TrainingFault, replace_with, step_fault

STEP_FAULTS: tuple[TrainingFault, ...] = (
    # Training steps.
    # https://github.com/ServiceNow/Fast-LLM/blob/main/fast_llm/functional/triton/adam.py and its fallback
    step_fault(
        "AdamW's step is counted twice",
        *("single", "llama", "step is counted twice"),
        Replacement("adamw:correct_moments", optimizer_replacements.correct_later),
    ),
    step_fault(
        "moments are not corrected",
        *("single", "llama", "not corrected"),
        replace_with("adamw:correct_moments", lambda moments, *_: (moments.first, moments.second)),
    ),
    step_fault(
        "weight decay on norms and biases",
        *("single", "llama", "norms and biases"),
        replace_with("adamw:is_decayed", lambda _: True),
    ),
    step_fault(
        "no weight decay",
        *("single", "llama", "decay is missing"),
        replace_with("adamw:is_decayed", lambda _: False),
    ),
    step_fault(
        "weight decay as a part of the gradient",
        *("single", "llama", r"\(L2\)"),
        replace_with("adamw:update_weight", optimizer_replacements.update_changed(l2=True)),
    ),
    step_fault(
        "weight decay without the learning rate",
        *("single", "llama", "not multiplied by the learning rate"),
        replace_with("adamw:update_weight", optimizer_replacements.update_changed(unscaled=True)),
    ),
    step_fault(
        "epsilon inside the root",
        *("single", "llama", "inside the square root"),
        replace_with("adamw:update_weight", optimizer_replacements.update_changed(inside=True)),
    ),
    step_fault(
        "betas swapped",
        *("single", "llama", "swapped"),
        replace_with("adamw:update_weight", optimizer_replacements.update_changed(swapped=True)),
    ),
    step_fault(
        "half the learning rate",
        *("single", "llama", r"update of .*0\.5 of its size"),
        Replacement("adamw:update_weight", optimizer_replacements.half_rate),
    ),
    step_fault(
        "no clipping",
        *("single", "llama", "not clipped"),
        replace_with("training_step:compute_clip_scale", lambda _, __: 1.0),
    ),
    step_fault(
        "clipping twice",
        *("single", "llama", "clipped twice"),
        Replacement(
            "training_step:compute_clip_scale", lambda original: lambda norm, limit: original(norm, limit) ** 2
        ),
    ),
    step_fault(
        "each parameter clipped alone",
        *("single", "llama", "own norm"),
        replace_with("training_step:compute_clip_scale", lambda _, __: 1.0),
        Replacement("adamw:update_weight", optimizer_replacements.clip_alone),
    ),
    step_fault(
        "the clipped gradient's norm is reported",
        *("single", "llama", "norm after clipping is reported"),
        Replacement("training_rank:run_step", optimizer_replacements.report_clipped_norm),
    ),
    step_fault(
        "gradients are not cleared between steps",
        *("single", "llama", "not cleared"),
        Replacement("training_rank:run_step", optimizer_replacements.keep_old_gradients),
    ),
    # https://github.com/huggingface/transformers/issues/48569
    step_fault(
        "gradients of micro-batches overwrite one another",
        *("accumulate2", "llama", "overwritten"),
        Replacement("training_step:RankTrainer._run_backward", step_replacements.overwrite_gradients),
        thread="https://github.com/huggingface/transformers/issues/48569",
    ),
    step_fault(
        "the loss is the mean of the documents' means",
        *("accumulate2", "llama", "mean of the documents' means"),
        Replacement("sharded_model:ShardedModel.sum_cross_entropy", optimizer_replacements.mean_of_document),
        replace_with("training_step:compute_loss", lambda total, _: total / 2),
        thread="https://github.com/huggingface/transformers/issues/34191",
    ),
    step_fault(
        "masked tokens count",
        *("single", "llama", "loss mask is ignored"),
        Replacement("training_rank:read_documents", optimizer_replacements.count_all_tokens),
    ),
    step_fault(
        "each token is predicted from itself",
        *("single", "llama", "loss is wrong.*targets"),
        Replacement("sharded_model:ShardedModel.sum_cross_entropy", optimizer_replacements.predict_same_token),
    ),
    # https://github.com/inclusionAI/AReaL/issues/1468
    step_fault(
        "both moments are lost in a resume",
        *("single", "llama", "moments"),
        Replacement("training_rank:cut_state", resume_replacements.resume_without("first", "second")),
        check="resume",
        thread="https://github.com/inclusionAI/AReaL/issues/1468",
    ),
    step_fault(
        "the second moment is lost in a resume",
        *("single", "llama", "second moment"),
        Replacement("training_rank:cut_state", resume_replacements.resume_without("second")),
        check="resume",
    ),
    step_fault(
        "the step count is lost in a resume",
        *("single", "llama", "step"),
        Replacement("training_rank:cut_state", resume_replacements.resume_without(step=True)),
        check="resume",
    ),
    step_fault(
        "a resume begins with the first documents again",
        *("single", "llama", "other documents"),
        Replacement("training:run_place", resume_replacements.resume_first_documents),
        check="resume",
    ),
    step_fault(
        "a missing moment is taken as zeros",
        *("single", "llama", "without the moment"),
        Replacement("training_checkpoint:_select_kind", resume_replacements.read_missing_as_zeros),
        Replacement("training_checkpoint:_read_file", resume_replacements.read_unchecked),
        check="resume",
    ),
    step_fault(
        "an export is rounded",
        *("single", "llama", "export from one process"),
        Replacement("training:_yield_whole", resume_replacements.export_rounded),
        check="conversion",
    ),
    step_fault(
        "the balancing loss has no gradient",
        *("accumulate2", "mixtral", "balancing loss has no gradient"),
        Replacement(
            "training_step:RankTrainer.scale_balancing_loss",
            lambda original: lambda self, t: original(self, t).detach(),
        ),
        check="balancing",
    ),
)
"""Each with the layout in which it must be caught, and the words by which the diagnosis names it."""
