"""The list of consumers."""

from typing import get_args

import pytest

from ci.consumers.registry import CONSUMERS, ConsumerName, create_consumer, find_consumer
from ci.environments.description import shipped_descriptions
from ci.errors import RequestError


def test_the_names_are_those_of_the_type() -> None:
    assert get_args(ConsumerName) == tuple(CONSUMERS)


def test_each_environment_is_shipped() -> None:
    environments = {offer.environment for offer in CONSUMERS.values() if offer.environment}
    assert environments == {"vllm"}
    assert environments <= set(shipped_descriptions())


def test_each_consumer_is_made_without_its_library() -> None:
    assert [type(create_consumer(name)).__name__ for name in CONSUMERS] == ["VllmEngine", "TransformersEngine"]


def test_an_unknown_consumer_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="unknown consumer 'sglang'; choose one of vllm, transformers"):
        find_consumer("sglang")
