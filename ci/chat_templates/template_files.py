"""Reads a directory's chat templates and the special tokens that they get, as transformers finds them.

https://huggingface.co/docs/transformers/main/chat_templating and `PreTrainedTokenizerBase._from_pretrained`: the file
chat_template.jinja goes before the key of tokenizer_config.json, and further templates lie in a folder of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.companion_files import TEMPLATE_FILES, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.companion_files import CompanionDirectory

DEFAULT = "default"
"""The name of the template that is used where none is asked for."""
ADDITIONAL = "additional_chat_templates"
JINJA, LEGACY = TEMPLATE_FILES
KEY = "chat_template"
MAX_TEMPLATE_BYTES = 2**20
"""Published templates have up to 30 kB."""
MAX_TEMPLATES = 16
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_TOKENS_MAP = "special_tokens_map.json"


def read_templates(directory: CompanionDirectory) -> dict[str, str]:
    """Return the chat templates by name; empty without one.

    A file that is not UTF-8 is read with replacement characters, one that is too long as a note of that.
    """
    files = _list_files(directory)
    if files:
        return {name: _read_text(directory, file) for name, file in list(files.items())[:MAX_TEMPLATES]}
    for file in (LEGACY, TOKENIZER_CONFIG):
        if found := dict(_list_templates(directory.read_object(file).get(KEY))):
            return found
    return {}


def find_template_place(directory: CompanionDirectory) -> str:
    """Return where the chat templates stand, "" where there are none."""
    if files := _list_files(directory):
        return ", ".join(files.values())
    places = (LEGACY, TOKENIZER_CONFIG)
    return next((file for file in places if dict(_list_templates(directory.read_object(file).get(KEY)))), "")


def read_special_tokens(directory: CompanionDirectory) -> dict[str, str]:
    """Return the special tokens' texts by name, as a template gets them."""
    return {
        **dict(_list_tokens(directory.read_object(SPECIAL_TOKENS_MAP))),
        **dict(_list_tokens(directory.read_object(TOKENIZER_CONFIG))),
    }


def _list_files(directory: CompanionDirectory) -> dict[str, str]:
    """Return the template files by the template's name."""
    own = {DEFAULT: JINJA} if directory.has(JINJA) else {}
    more = sorted(path.name for path in (directory.path / ADDITIONAL).glob("*.jinja"))
    further = {name.removesuffix(".jinja"): f"{ADDITIONAL}/{name}" for name in more}
    return {**own, **{name: file for name, file in further.items() if directory.has(file)}}


def _read_text(directory: CompanionDirectory, name: str) -> str:
    try:
        return directory.read_bytes(name, MAX_TEMPLATE_BYTES).decode("utf-8", "replace")
    except OSError as problem:
        return f"{{# {problem} #}}"


def _list_templates(value: Any) -> Iterator[tuple[str, str]]:
    """Yield name and text: of one template, or of a list of named ones."""
    if isinstance(value, str):
        yield DEFAULT, value
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
