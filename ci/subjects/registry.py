"""The subjects by name: those of this package, and the adapters of others. Light until a subject is made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ci.errors import RequestError
from ci.spelling import suggest_name
from ci.subjects.base import Subject
from ci.subjects.described import SUFFIX, DescribedAdapter, find_announced, read_described
from ci.subjects.fast_llm.offer import OFFER as FAST_LLM_OFFER
from ci.subjects.offer import SubjectOffer
from ci.subjects.plugins import Plugin, find_plugin, list_plugin_names, load_offer
from ci.subjects.reference.offer import OFFER as REFERENCE_OFFER

SubjectName = str
"""A key of `ADAPTERS`, or what `ci.subjects.plugins` finds."""


@dataclass(frozen=True)
class Adapter:
    """A subject's offer, and the function that makes the subject in this process; `plugin` where others wrote it.

    `described` where hub-tests has a description of it alone.
    """

    offer: SubjectOffer
    create: Callable[[], Subject]
    plugin: Plugin | None = None
    described: DescribedAdapter | None = None


def _create_fast_llm() -> Subject:
    from ci.subjects.fast_llm.subject import FastLLMSubject

    return FastLLMSubject()


def _create_reference() -> Subject:
    from ci.subjects.reference.subject import ReferenceSubject

    return ReferenceSubject()


ADAPTERS: Final[Mapping[SubjectName, Adapter]] = {
    "fast_llm": Adapter(FAST_LLM_OFFER, _create_fast_llm),
    "reference": Adapter(REFERENCE_OFFER, _create_reference),
}
"""The subjects of this package by name, in the order in which a default is looked for."""

WorkerName = str
"""What a worker can run: a subject, or Hugging Face's side of a model whose code travels with it."""

HUGGING_FACE: Final[WorkerName] = "hugging_face"

SUBJECT_NAMES: Final[tuple[SubjectName, ...]] = tuple(ADAPTERS)


def _create_hugging_face() -> Subject:
    from ci.subjects.hugging_face.subject import HuggingFaceSubject

    return HuggingFaceSubject()


HUGGING_FACE_ADAPTER: Final = Adapter(SubjectOffer(HUGGING_FACE, "transformers", (), ()), _create_hugging_face)
"""Hugging Face's side: a worker can run it, and it can be no subject."""


def find_adapter(name: str) -> Adapter:
    """Return the adapter of a subject, or of Hugging Face's side. Raises RequestError for an unknown name."""
    if name == HUGGING_FACE:
        return HUGGING_FACE_ADAPTER
    for known, adapter in ADAPTERS.items():
        if known == name:
            return adapter
    if described := read_described(Path(name)) if name.endswith(SUFFIX) else find_announced(name):
        return _use_described(described)
    if plugin := find_plugin(name):
        return Adapter(load_offer(plugin), lambda: plugin.load()(), plugin)
    names = (*ADAPTERS, *list_plugin_names())
    raise RequestError(
        f"unknown subject {name!r}.{suggest_name(name, names)} Choose one of {', '.join(names)}, or name an adapter: "
        "package.module:Class, PATH/file.py:Class or a description PATH/file.toml"
    )


def _use_described(described: DescribedAdapter) -> Adapter:
    plugin = Plugin(described.reference, None)
    return Adapter(described.offer, lambda: plugin.load()(), plugin, described)


def find_offer(name: str) -> SubjectOffer:
    """Return what a subject offers. Raises RequestError for an unknown name."""
    return find_adapter(name).offer


def list_offers() -> list[tuple[str, SubjectOffer]]:
    """Return the name and the offer of every subject: those of this package, then the installed adapters."""
    return [(name, find_offer(name)) for name in (*ADAPTERS, *list_plugin_names())]


def create_subject(name: str) -> Subject:
    """Make the subject `name` in this process. Raises RequestError for an unknown name.

    What the subject stands on is imported when it is first needed.
    """
    return find_adapter(name).create()


def is_importable(name: str) -> bool:
    """Return whether this interpreter has the package that the subject needs."""
    return find_spec(find_offer(name).package) is not None


def shares_interpreter(name: str, python: Path | None) -> bool:
    """Return whether a subject is installed in hub-tests' own environment, and is run from there.

    An installed distribution can run code whenever its interpreter starts (`.pth` files, `sitecustomize`), so it has
    run in hub-tests before any sandbox was made. `python` None is the running interpreter.
    """
    offer = find_offer(name)
    if offer.in_this_package or not is_importable(name):
        return False
    return python is None or python.absolute().parent.parent.resolve() == Path(sys.prefix).resolve()


def choose_default_subject(python: Path | None) -> SubjectName:
    """Return the first subject that can run.

    With an interpreter of its own any subject can; otherwise it must be importable here.
    """
    return next(name for name in SUBJECT_NAMES if python or is_importable(name))
