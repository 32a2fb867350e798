"""The identity of a host names its machine, driver and cards."""

from __future__ import annotations

from ci.doctor import read_host_identity
from tests.ci.doctor.scenes import (
    nvml,
)


def test_the_identity_names_host_driver_and_cards() -> None:
    identity = read_host_identity(nvml())
    assert identity["driver"] == "580.159.04"
    assert identity["gpu3"] == "NVIDIA H100 80GB HBM3 GPU-3"
    assert all(isinstance(value, str) and value for value in identity.values())
