"""The subjects by name: those of this package, and the adapters of others. Light until a subject is made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ci.errors import RequestError
from ci.subjects.base import Subject
from ci.subjects.fast_llm.offer import OFFER as FAST_LLM_OFFER
from ci.subjects.offer import SubjectOffer
from ci.subjects.plugins import Plugin, find_plugin, list_plugin_names, load_offer
from ci.subjects.reference.offer import OFFER as REFERENCE_OFFER

SubjectName = str
"""A key of `ADAPTERS`, or what `ci.subjects.plugins` finds."""


@dataclass(frozen=True)
class Adapter:
    """A subject's offer, and the function that makes the subject in this process; `plugin` where others wrote it."""

    offer: SubjectOffer
    create: Callable[[], Subject]
    plugin: Plugin | None = None


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

SUBJECT_NAMES: Final[tuple[SubjectName, ...]] = tuple(ADAPTERS)


def find_adapter(name: str) -> Adapter:
    """Return the adapter of a subject. Raises RequestError for an unknown name."""
    for known, adapter in ADAPTERS.items():
        if known == name:
            return adapter
    if plugin := find_plugin(name):
        return Adapter(load_offer(plugin), lambda: plugin.load()(), plugin)
    from ci.models import suggest_name

    names = (*ADAPTERS, *list_plugin_names())
    raise RequestError(
        f"unknown subject {name!r}.{suggest_name(name, names)} Choose one of {', '.join(names)}, or name an adapter: "
        "package.module:Class or PATH/file.py:Class"
    )


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
