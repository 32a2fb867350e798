"""Reads a directory's chat templates and the special tokens that they get, as transformers finds them.

https://huggingface.co/docs/transformers/main/chat_templating, `PreTrainedTokenizerBase._from_pretrained` and
`ProcessorMixin.get_processor_dict`: a tokenizer takes chat_template.jinja and the folder additional_chat_templates,
else the key of tokenizer_config.json; a processor takes the key of processor_config.json or chat_template.json before
these files, and never the tokenizer's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ci.companion_files import MAX_NAMED_TEMPLATES, NAMED_TEMPLATES, TEMPLATE_FILES, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.companion_files import CompanionDirectory

DEFAULT = "default"
"""The name of the template that is used where none is asked for."""
JINJA, LEGACY = TEMPLATE_FILES
PROCESSOR_CONFIG = "processor_config.json"
KEY = "chat_template"
MAX_TEMPLATE_BYTES = 2**20
"""Published templates have up to 30 kB."""
MAX_TEMPLATES = MAX_NAMED_TEMPLATES + 1
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_TOKENS_MAP = "special_tokens_map.json"


@dataclass(frozen=True)
class FoundTemplate:
    """A chat template's text, and the file in which it stands."""

    text: str
    place: str


@dataclass(frozen=True)
class TemplatePair:
    """A chat template in the original and in the export, None where it has none."""

    before: FoundTemplate | None
    after: FoundTemplate | None

    @property
    def is_kept(self) -> bool:
        """Return whether both have the template with the same text, wherever it stands."""
        return self.before is not None and self.after is not None and self.before.text == self.after.text

    @property
    def is_rewritten(self) -> bool:
        """Return whether both have the template, with other texts."""
        return self.before is not None and self.after is not None and self.before.text != self.after.text


def pair_templates(original: CompanionDirectory, exported: CompanionDirectory) -> dict[str, TemplatePair]:
    """Pair the chat templates of two directories by name: the tokenizer's, and a processor's where they are others."""
    both = original, exported
    pairs = _pair_by_name(*map(read_tokenizer_templates, both))
    if any(_has_own_templates(directory) for directory in both):
        for name, pair in _pair_by_name(*map(read_processor_templates, both)).items():
            if name not in pairs:
                pairs[name] = pair
            elif _get_texts(pair) != _get_texts(pairs[name]):
                pairs[f"{name} of the processor"] = pair
    return pairs


def read_tokenizer_templates(directory: CompanionDirectory) -> dict[str, FoundTemplate]:
    """Return, by name, the chat templates that a tokenizer finds; empty without one."""
    return _read_files(directory) or _read_key(directory, TOKENIZER_CONFIG)


def read_processor_templates(directory: CompanionDirectory) -> dict[str, FoundTemplate]:
    """Return, by name, the chat templates that a multimodal model's processor finds; empty without one."""
    return _read_key(directory, PROCESSOR_CONFIG) or _read_key(directory, LEGACY) or _read_files(directory)


def _pair_by_name(before: Mapping[str, FoundTemplate], after: Mapping[str, FoundTemplate]) -> dict[str, TemplatePair]:
    return {name: TemplatePair(before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after))}


def _get_texts(pair: TemplatePair) -> tuple[str | None, str | None]:
    return pair.before.text if pair.before else None, pair.after.text if pair.after else None


def _has_own_templates(directory: CompanionDirectory) -> bool:
    """Return whether a processor reads other templates than a tokenizer."""
    return bool(_read_key(directory, PROCESSOR_CONFIG) or _read_key(directory, LEGACY))


def read_special_tokens(directory: CompanionDirectory) -> dict[str, str]:
    """Return the special tokens' texts by name, as a template gets them."""
    return {
        **dict(_list_tokens(directory.read_object(SPECIAL_TOKENS_MAP))),
        **dict(_list_tokens(directory.read_object(TOKENIZER_CONFIG))),
    }


def _read_files(directory: CompanionDirectory) -> dict[str, FoundTemplate]:
    """Read the template files.

    One that is not UTF-8 is read with replacement characters, one that is too long as a note of that.
    """
    further = directory.list_names((f"{NAMED_TEMPLATES}/*.jinja",))
    named = {file.removeprefix(f"{NAMED_TEMPLATES}/").removesuffix(".jinja"): file for file in further}
    own = {DEFAULT: JINJA} if directory.has(JINJA) else {}
    files = islice({**named, **own}.items(), MAX_TEMPLATES)
    return {name: FoundTemplate(_read_text(directory, file), file) for name, file in files}


def _read_key(directory: CompanionDirectory, file: str) -> dict[str, FoundTemplate]:
    """Read the templates in the key of a JSON file."""
    found = islice(_list_templates(directory.read_object(file).get(KEY)), MAX_TEMPLATES)
    return {name: FoundTemplate(text, file) for name, text in found}


def _read_text(directory: CompanionDirectory, name: str) -> str:
    try:
        return directory.read_bytes(name, MAX_TEMPLATE_BYTES).decode("utf-8", "replace")
    except OSError as problem:
        return f"{{# {problem} #}}"


def _list_templates(value: Any) -> Iterator[tuple[str, str]]:
    """Yield name and text: of one template, or of several named ones, as a list or an object."""
    if isinstance(value, str):
        yield DEFAULT, value
    if isinstance(value, dict):
        yield from ((str(name), text) for name, text in value.items() if isinstance(text, str))
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict) and isinstance(item.get("template"), str):
            yield str(item.get("name", DEFAULT)), item["template"]


def _list_tokens(tokens: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each special token's name and text.

    A token is a text, or an object with one in `content`.
    """
    for name in SPECIAL_TOKENS:
        token = tokens.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield name, text
