"""The one list of consumers: each engine's name, package and environment, and how it is made. Light until made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ci.consumers.base import Consumer
from ci.errors import RequestError

ConsumerName = Literal["vllm", "transformers"]
"""The names of `CONSUMERS`, as a type; a test keeps both alike."""


@dataclass(frozen=True)
class ConsumerOffer:
    """An engine: the package it needs, its environment of hub-tests, and the function that makes it.

    `environment` is None where hub-tests' own interpreter has the package anyway.
    """

    package: str
    environment: str | None
    create: Callable[[], Consumer]


def _create_vllm() -> Consumer:
    from ci.consumers.vllm_engine import VllmEngine

    return VllmEngine()


def _create_transformers() -> Consumer:
    from ci.consumers.transformers_engine import TransformersEngine

    return TransformersEngine()


CONSUMERS: Final[Mapping[ConsumerName, ConsumerOffer]] = {
    "vllm": ConsumerOffer("vllm", "vllm", _create_vllm),
    "transformers": ConsumerOffer("transformers", None, _create_transformers),
}


def find_consumer(name: str) -> ConsumerOffer:
    """Return the offer of a consumer. Raises RequestError for an unknown name."""
    for known, offer in CONSUMERS.items():
        if known == name:
            return offer
    raise RequestError(f"unknown consumer {name!r}; choose one of {', '.join(CONSUMERS)}")


def create_consumer(name: str) -> Consumer:
    """Make the consumer `name` in this process. Raises RequestError for an unknown name."""
    return find_consumer(name).create()
