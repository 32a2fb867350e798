"""The fixed bugs of Fast-LLM that are replayed: commit ids, file names and our own words.

A substitution is the smallest edit of today's code that behaves as the code before the fix did.
"""

from __future__ import annotations

from benchmarks.mutation.tiny_models import LLAMA3, TINY_MODELS, TinyModel
from benchmarks.replay.records import NotRun, Pair, Place, Reversal, Substitution

CONVERSION = "fast_llm/models/gpt/conversion"
LLAMA, MISTRAL, MIXTRAL, QWEN2 = (f"{CONVERSION}/{name}.py" for name in ("llama", "mistral", "mixtral", "qwen2"))
CHECKPOINT = "fast_llm/engine/checkpoint"
HANDLER = f"{CHECKPOINT}/huggingface.py"
ATTENTION = "fast_llm/layers/attention/attention.py"
FSDP = "fast_llm/engine/multi_stage/fsdp.py"
WRAPPER = "fast_llm/models/gpt/huggingface.py"
MLP = "fast_llm/functional/triton/mlp.py"

SQUARE_EXPERTS = TinyModel(
    "square_experts", "mixtral", {"num_local_experts": 6, "head_dim": 12, "intermediate_size": 48}
)
"""Experts as wide as the hidden size: a matrix that is transposed keeps its shape, so that only numbers can tell."""
SCALED_MISTRAL = TinyModel(
    "scaled_mistral", "mistral", {"rope_parameters": LLAMA3, "sliding_window": None, "head_dim": 12}
)
MASK_TOKEN = TinyModel("mask_token", "llama", {"mask_token_id": 5, "head_dim": 10})

CONVERTER_PAIRS = (
    Pair(
        "yarn-factor",
        "760f4d54",
        "yarn's scaling factor was neither read nor written, so that a default stood in for it",
        Reversal((LLAMA,)),
        TINY_MODELS["yarn"],
        place=Place(("query",), "conversion"),
    ),
    Pair(
        "mask-token",
        "760f4d54",
        "a config with a mask token was refused",
        Reversal((HANDLER,)),
        MASK_TOKEN,
        place=Place(words="mask_token_id"),
    ),
    Pair(
        "llama3-keys",
        "1440e658",
        "llama3's factors were looked for one level too high in config.json",
        (Substitution(LLAMA, r'rope_params(\["(?:low|high)_freq_factor"\])', r"hf_dict\1", 2),),
        TINY_MODELS["biased"],
        place=Place(words="low_freq_factor"),
    ),
    Pair(
        "rope-parameters",
        "63574be9",
        "RoPE's parameters were read only where transformers 4 keeps them",
        (Substitution(LLAMA, r'"rope_parameters" in hf_dict', '"rope_parameters" in ()'),),
        TINY_MODELS["dense"],
        place=Place(words="rope_theta"),
    ),
    Pair(
        "mistral-rope-scaling",
        "41dbb376",
        "Mistral's RoPE scaling was dropped silently",
        (Substitution(LLAMA, r"^(    rope_type = ).*$", r'\1"default"'),),
        SCALED_MISTRAL,
        place=Place(("query",), "conversion"),
    ),
    Pair(
        "architectures",
        "2e6b0ea5",
        "the list of architectures was read and written under a wrong key",
        (
            Substitution(HANDLER, r'"architectures": \[(.*)\]', r'"architecture": \1'),
            Substitution(HANDLER, r'\["architectures"\], \[(.*)\]', r'["architecture"], \1'),
        ),
        TINY_MODELS["dense"],
        place=Place(words="architecture"),
    ),
    Pair(
        "mistral-attention-bias",
        "2e6b0ea5",
        "Mistral's converter asked for an attention bias key that Mistral has not",
        (Substitution(MISTRAL, r'^ *"add_linear_biases": .*\n(?= *"window_size")', ""),),
        TINY_MODELS["window"],
        place=Place(words="attention_bias|add_linear_biases"),
    ),
    Pair(
        "mistral-mlp",
        "b7c0de61",
        "Mistral's converter asked for an MLP bias key that Mistral has not",
        (Substitution(MISTRAL, r"^    mlp_converter_class: .*\n", ""),),
        TINY_MODELS["window"],
        place=Place(words="mlp_bias|add_linear_biases"),
    ),
    Pair(
        "mixtral-names",
        "4db6271a",
        "Mixtral's experts were looked for under a dense MLP's name",
        (Substitution(MIXTRAL, r"^    hf_mlp_name: .*\n", ""),),
        TINY_MODELS["moe"],
        place=Place(words=r"mlp|block_sparse_moe"),
    ),
    Pair(
        "mixtral-router-name",
        "4db6271a",
        "Mixtral's router was looked for under Fast-LLM's own name of it",
        (Substitution(MIXTRAL, r'("router", )"gate"', r'\1"router"'),),
        TINY_MODELS["moe"],
        place=Place(words=r"router|gate"),
    ),
    Pair(
        "mixtral-down-projection",
        "93dbfc8b",
        "the experts' down projections were stored in the wrong orientation",
        (Substitution(MIXTRAL, r"transform=TransposeSplit", "transform=Split"),),
        SQUARE_EXPERTS,
        place=Place(("MLP",), "conversion"),
    ),
    Pair(
        "mixtral-mlp-bias",
        "58dfa6fa",
        "Mixtral's converter asked for an MLP bias key that Mixtral has not",
        (Substitution(MIXTRAL, r'^ *"add_linear_biases": .*\n', ""),),
        TINY_MODELS["moe"],
        place=Place(words="mlp_bias|add_linear_biases"),
    ),
    Pair(
        "qwen2-biases",
        "4543b399",
        "Qwen2's biases of query, key and value were not converted",
        (
            Substitution(QWEN2, r"bias_fn=True", "bias_fn=False", 2),
            Substitution(QWEN2, r'("enabled": )True', r"\1False", 3),
        ),
        TINY_MODELS["tied"],
        place=Place(words="bias"),
    ),
    Pair(
        "qwen2-dense-bias",
        "90203d8a",
        "one switch for all biases gave Qwen2's output projection a bias that it has not",
        (
            Substitution(QWEN2, r'("dense", "o_proj", bias_fn=)False', r"\1True"),
            Substitution(QWEN2, r'("dense_layer",\): .*"enabled": )False', r"\1True"),
        ),
        TINY_MODELS["tied"],
        place=Place(words=r"o_proj|dense"),
    ),
    Pair(
        "qwen2-head-dim",
        "58dfa6fa",
        "an export of Qwen2 had a head size key that Qwen2's config has not",
        (Substitution(QWEN2, r'^( *)"head_size": ImportOnly', r'\1"head_size_": ImportOnly'),),
        TINY_MODELS["tied"],
        ("round_trip",),
        Place(words="head_dim"),
    ),
)

KERNEL_PAIRS = (
    Pair(
        "document-mask",
        "51f59f8d",
        "the mask compared positions within documents where it should compare the documents",
        (
            Substitution(
                "fast_llm/data/document/block.py",
                r"(index_q, \w+\.document_index_k = )self\.document_index",
                r"\1(self.position_index, self.position_index)",
            ),
        ),
        TINY_MODELS["dense"],
        place=Place(("attention",), "kernel"),
    ),
    Pair(
        "cross-document",
        "fae01025",
        "attention reached into other documents, since the switch against it was not read",
        (Substitution(ATTENTION, r"attention_mask & document_mask", "attention_mask"),),
        TINY_MODELS["dense"],
        place=Place(("attention",), "kernel", "document mask"),
    ),
    Pair(
        "no-mask",
        "9c01471f",
        "a forward pass without an attention mask crashed",
        (Substitution(WRAPPER, r"attention_mask is None", "attention_mask is False"),),
        TINY_MODELS["dense"],
        place=Place(words="NoneType"),
    ),
    Pair(
        "looped-experts",
        "bfceea35",
        "the loop over experts took the down projections transposed",
        (Substitution(MLP, r"(recompute_level,\n +)True(,\n +\))", r"\1False\2"),),
        SQUARE_EXPERTS,
        place=Place(("MLP",), "kernel"),
    ),
    Pair(
        "gradient-accumulation",
        "46735917",
        "a gradient buffer that stages share was overwritten where it should accumulate",
        Reversal((FSDP, "fast_llm/engine/schedule/runner.py")),
        TINY_MODELS["tied"],
        ("gradients",),
        Place(words="gradient"),
    ),
    Pair(
        "default-loss",
        "f60b804b",
        "without configured losses there was no loss at all",
        (
            Substitution(
                "fast_llm/layers/language_model/head.py",
                r"self\._config\.get_effective_losses\(\)",
                "self._config.losses",
            ),
        ),
        TINY_MODELS["dense"],
        ("gradients",),
        Place(words="loss"),
    ),
    Pair(
        "export-dtype",
        "5fe84a56",
        "an export in a dtype cast with Fast-LLM's name of it, which torch does not know",
        (Substitution(FSDP, r"dtype=data_type\.torch", "dtype=data_type"),),
        TINY_MODELS["dense"],
        ("round_trip",),
        Place(words="dtype|DataType"),
    ),
    Pair(
        "missing-directory",
        "97e6cf4d",
        "a checkpoint was written into a directory that nobody had made",
        tuple(
            Substitution(f"{CHECKPOINT}/{name}.py", r"^.*path\.mkdir\(.*\n", "", count)
            for name, count in (("state_dict", 2), ("convert", 1))
        ),
        TINY_MODELS["dense"],
        ("convert",),
        Place(words="No such file|directory"),
    ),
)

NEVER = {
    "triton": "a Triton kernel: needs CUDA, and Triton's interpreter fails at Fast-LLM's patch of it",
    "vision": "only the vision encoder rotates in two dimensions, and no text format has one",
    "mirror": "needs a format whose Hugging Face side is code that travels with the model",
    "ranks": "needs several processes; the judge runs one",
    "distillation": "a loss of distillation or reinforcement learning; the judge's loss is next-token cross entropy",
    "masks": "the judge's training step masks no label",
}


def _explain(commit: str, name: str, fixed: str, reason: str) -> Pair:
    return Pair(name, commit, fixed, NotRun(NEVER.get(reason, reason)))


UNREACHED_PAIRS = (
    _explain("f68b12cd", "rotary-2d", "height and width shared their frequencies", "vision"),
    _explain("3f97df70", "llava", "parts of a model with images were written under wrong names", "vision"),
    _explain("82e83508", "long-rotary", "the kernel's grid ended at 65,535 positions", "triton"),
    _explain("3daf079e", "norm-backward", "the norm's backward pass divided by a weight that may be zero", "triton"),
    _explain("2decab1f", "norm-backward-cpu", "the norm's backward pass asked a CPU for its multiprocessors", "triton"),
    _explain("37a4944c", "dream-export", "an export of Dream lacked files and keys", "mirror"),
    _explain("e3f45a62", "hybrid-export", "a hybrid's block layout could not be written", "mirror"),
    _explain("e2f36d81", "ssm-formats", "a format was listed that did not exist", "mirror"),
    _explain("b5cca16f", "apriel2-modelling", "Apriel2's own modelling code was wrong", "mirror"),
    _explain("22c70ad9", "load-padding", "the padding of a frozen part was counted in a distributed load", "ranks"),
    _explain("04dcf095", "distributed-load", "a distributed checkpoint loaded wrongly into another layout", "ranks"),
    _explain("c8a73df7", "sequence-parallel-mask", "a loss mask was not cut to the rank's part", "ranks"),
    _explain("057aff2a", "double-negation", "a double negation", "the two spellings mean the same in Python"),
    _explain("a2454a2a", "reverse-kl", "the reverse KL's loss lost a dimension under a mask", "distillation"),
    _explain("4ee9713f", "loss-mask", "padding was in the mask of the loss", "masks"),
    _explain("04fd8000", "label-clone", "masking labels changed the input tokens", "masks"),
    _explain("c935f3a7", "padding-loss", "padding counted in the loss", "masks"),
    _explain("95900a4b", "absolute-positions", "positions had a dimension too many", "no format here learns positions"),
    _explain(
        "0c0e7d9c", "rope-type", "a config without a type of RoPE was refused", "transformers 5 always writes the type"
    ),
    _explain(
        "9408fcb4", "query-norm", "RoPE in place spoiled what the query norm's backward needs", "no format here has it"
    ),
    _explain(
        "1371e47d", "layer-lr", "a layer's learning rate was another layer's", "the judge takes no optimizer step"
    ),
)

PAIRS: tuple[Pair, ...] = (*CONVERTER_PAIRS, *KERNEL_PAIRS, *UNREACHED_PAIRS)
