"""The identity of a host names its machine, driver and cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.chat_templates.engines import NO_NODE
from ci.doctor import identity, read_host_identity
from tests.ci.doctor.scenes import nvml

if TYPE_CHECKING:
    import pytest


def test_a_missing_second_engine_is_told_with_each_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine, absent in (("", NO_NODE), ("@huggingface/jinja 0.5.11", "")):
        monkeypatch.setattr(identity, "describe_second_engine", lambda answer=(engine, absent): answer)
        said = read_host_identity(nvml())["chat templates"]
        expected = "alone: node is not installed" if absent else "and @huggingface/jinja 0.5.11"
        assert said == f"judged by Jinja2 {expected}"


def test_the_identity_names_host_driver_and_cards() -> None:
    told = read_host_identity(nvml())
    assert told["driver"] == "580.159.04"
    assert told["chat templates"].startswith("judged by Jinja2 ")
    assert told["gpu3"] == "NVIDIA H100 80GB HBM3 GPU-3"
    assert all(isinstance(value, str) and value for value in told.values())
