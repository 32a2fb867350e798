"""What an adapter for another framework imports from hub-tests; everything else may change without notice.

`hub_tests.subject` has the protocol and its records, `hub_tests.torch_trace` the helpers for PyTorch models.
The implementation is the package `ci`; it must be ours, not another package of that name.
"""

from __future__ import annotations

from pathlib import Path


def _check_implementation() -> None:
    """Raise ImportError where another package `ci` would be used in place of ours."""
    import ci

    found, ours = Path(ci.__file__).resolve().parent, Path(__file__).resolve().parents[1] / "ci"
    if found != ours.resolve():
        raise ImportError(
            f"hub_tests needs its own package ci in {ours}, but {found} is imported; import hub_tests first"
        )


_check_implementation()
