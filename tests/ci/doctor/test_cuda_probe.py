"""The computation on each GPU, as far as a machine without one can run it."""

from __future__ import annotations

from ci.doctor import cuda_probe


def test_the_probe_asks_about_a_gpu_that_cuda_does_not_see() -> None:
    assert cuda_probe._try_compute(lambda *_: 0, object(), None) == "CUDA does not see this GPU"
    assert cuda_probe._try_compute(lambda *_: 3, object(), 0) == "3 numbers are wrong"
    assert cuda_probe._try_compute(lambda *_: 0, object(), 0) == ""
    assert cuda_probe._try_compute(lambda *_: 1 / 0, object(), 0) == "division by zero"
