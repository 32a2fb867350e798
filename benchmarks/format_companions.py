"""The companions of each format's model: what published repositories of its family have beside weights and config.json.

Keys and files are those of the family's repository; ids and texts are those of the small model's own vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.standin.models import write_json

if TYPE_CHECKING:
    from pathlib import Path

HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %}{{ message.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PARTS = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{% if message.content is string %}"
    "{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% elif part.type == 'image' %}[IMG]{% endif %}{% endfor %}{% endif %}{% endfor %}{{ eos_token }}"
)
TOOLS = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
)
GROUNDED = (
    "{% for document in documents or [] %}# {{ document.title }}\n{{ document.text }}\n{% endfor %}"
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
)
IMAGE_PROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "PixtralImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "patch_size": {"height": 4, "width": 4},
    "processor_class": "PixtralProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"longest_edge": 64},
}
PROCESSOR = {
    "image_break_token": "[IMG_BREAK]",
    "image_end_token": "[IMG_END]",
    "image_token": "[IMG]",
    "patch_size": 4,
    "processor_class": "PixtralProcessor",
}


@dataclass(frozen=True)
class Companions:
    """What lies beside a model: keys of its generation config and of its tokenizer's, and its templates' places.

    `templates` are texts by file: a path of its own, or `tokenizer_config.json`. `named` is that file's list of named
    templates. `listed` writes the tokenizer's special tokens into its config, `older` adds the older tokenizer files.
    """

    generation: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    processor: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    listed: bool = True
    older: bool = False


SAMPLED = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
JINJA, CONFIG_KEY, LEGACY = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
PIXTRAL_FILES = {"preprocessor_config.json": IMAGE_PROCESSOR, "processor_config.json": PROCESSOR}
LLAMA = Companions({**SAMPLED, "eos_token_id": [257, 260]}, {"model_max_length": 512}, {CONFIG_KEY: HEADERS})
MISTRAL = Companions({}, {"add_bos_token": True, "legacy": False}, {CONFIG_KEY: INSTRUCT}, listed=False)
QWEN = Companions(
    {"pad_token_id": 256, **SAMPLED, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": [257, 256]},
    {"errors": "replace", "split_special_tokens": False},
    {CONFIG_KEY: CHATML},
    older=True,
)
GEMMA = Companions(
    {"pad_token_id": 0, "do_sample": True, "top_k": 64, "top_p": 0.95, "eos_token_id": [257, 106]},
    {"processor_class": "Gemma4Processor"},
    {JINJA: PARTS},
)
APRIEL = Companions({**SAMPLED, "eos_token_id": 257}, {"model_max_length": 512}, {JINJA: HEADERS})
SEES = Companions(
    {**SAMPLED, "eos_token_id": 257}, {"processor_class": "PixtralProcessor"}, {JINJA: PARTS}, processor=PIXTRAL_FILES
)
DIFFUSION = Companions(
    {"mask_token_id": 300, "pad_token_id": 258},
    {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "<mask>"},
    {CONFIG_KEY: CHATML},
    older=True,
)
NAMED = {"default": INSTRUCT, "tool_use": TOOLS, "rag": GROUNDED}
FOLDER = {
    JINJA: CHATML,
    "additional_chat_templates/tool_use.jinja": TOOLS,
    "additional_chat_templates/rag.jinja": GROUNDED,
}
BY_MODEL: dict[str, Companions] = {
    "smollm2": Companions({"eos_token_id": 257}, {"add_prefix_space": False}, FOLDER),
    "mistral": MISTRAL,
    "mistral-nemo": Companions(MISTRAL.generation, {"model_max_length": 512}, named=NAMED),
    "mixtral": MISTRAL,
    "mixtral-published": MISTRAL,
    "qwen2": QWEN,
    "qwen2-windows": QWEN,
    "gemma4-experts": GEMMA,
    "gemma4-dense": GEMMA,
    "gemma4-published": Companions(
        GEMMA.generation, GEMMA.tokenizer, GEMMA.templates, processor={"processor_config.json": PROCESSOR}
    ),
    "llava": Companions({}, {"processor_class": "PixtralProcessor"}, {LEGACY: PARTS}, processor=PIXTRAL_FILES),
    "mtp_llama": LLAMA,
    "dream": DIFFUSION,
    "dream-carried": DIFFUSION,
    "diffusion_llama": DIFFUSION,
    "apriel_hybrid_ssm": APRIEL,
    "llava_hybrid_ssm": SEES,
    "apriel2_text": Companions(APRIEL.generation, APRIEL.tokenizer, {**FOLDER, JINJA: HEADERS}),
    "apriel2": SEES,
}
"""Each model's companions: those of its published namesake's kind; any other has Llama 3.1's."""


def copy_with_companions(source: Path, target: Path, name: str) -> Path:
    """Copy a model's repository to `target`, with the companions of its family, and return it."""
    shutil.copytree(source, target)
    write_published_companions(target, BY_MODEL.get(name, LLAMA))
    return target


def write_published_companions(directory: Path, companions: Companions) -> None:
    """Write the companions over the plain ones that the directory has."""
    generation = _read(directory / "generation_config.json")
    write_json(directory / "generation_config.json", {**generation, **companions.generation})
    _write_tokenizer(directory, companions)
    for name, text in companions.templates.items():
        if name.endswith(".jinja"):
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
        elif name == LEGACY:
            write_json(directory / name, {"chat_template": text})
    for name, content in companions.processor.items():
        write_json(directory / name, content)


def _write_tokenizer(directory: Path, companions: Companions) -> None:
    """Write the tokenizer's config with its templates, and the older files of a byte-pair tokenizer."""
    tokenizer = _read(directory / "tokenizer.json")
    config = {**_read(directory / CONFIG_KEY), **companions.tokenizer, "clean_up_tokenization_spaces": False}
    if companions.listed:
        config["added_tokens_decoder"] = {
            str(one["id"]): {key: value for key, value in one.items() if key != "id"}
            for one in tokenizer["added_tokens"]
        }
    if companions.named:
        config["chat_template"] = [{"name": name, "template": text} for name, text in companions.named.items()]
    elif CONFIG_KEY in companions.templates:
        config["chat_template"] = companions.templates[CONFIG_KEY]
    write_json(directory / CONFIG_KEY, config)
    if companions.older:
        write_json(directory / "vocab.json", tokenizer["model"]["vocab"])
        (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content
