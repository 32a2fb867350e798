"""A pytest plugin with the list of skips that remain in CI: as root with CI=true, any other skip is a failure.

`.ci/run` installs the packages that tests need, so a test that skips there for lack of one is a mistake of CI.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ALLOWED: Mapping[str, str] = {
    "extra slow: fetches real Hub models": "the hub suite needs the real Hub and its models, which CI never downloads",
    "HUB_TESTS_FAST_LLM_PYTHON names no interpreter": "Fast-LLM needs a checkout and an interpreter of its own",
    "needs Fast-LLM: set HUB_TESTS_FAST_LLM_PYTHON": "Fast-LLM needs a checkout and an interpreter of its own",
    "needs vLLM: set HUB_TESTS_VLLM_PYTHON": "vLLM needs an environment of its own, of several GB",
    "needs litgpt: set HUB_TESTS_LITGPT_PYTHON": "LitGPT needs an environment of its own, of 2 GB",
    "needs torchtitan: set HUB_TESTS_TORCHTITAN_PYTHON": "torchtitan needs an environment of its own, of 2 GB",
    "needs a GCS server: set HUB_TESTS_GCS_PYTHON": "gcsfs and its emulator need an environment of their own",
    "HUB_TESTS_ARC_CHARTS names no checkout": "the controller's charts are in a repository, not in a package",
    "neither helm nor helm-python-sdk is installed": "only needed together with the controller's charts",
    "needs a CUDA device": "CI's machines have no GPU",
    "needs CUDA": "CI's machines have no GPU",
    "Fast-LLM is importable here": "the test is about a machine without Fast-LLM",
    "namespaces are not to be had here": "CI's container may not make namespaces; no package changes that",
    "no veth in this kernel": "CI's kernel has no virtual network cards; no package changes that",
    "no builder of container images": "a builder needs a daemon or rights that CI's container does not have",
    "no overlay of this machine's files": "CI's file system cannot be overlaid; no package changes that",
}
"""The beginning of each reason that a test may skip with in CI, and why no package can bring what is missing."""

ALLOWED_OFFLINE: Mapping[str, str] = {
    "needs root, and apt-get install": "the Debian packages could not be installed",
    "apt-get install": "the Debian packages could not be installed",
    "no chromium here: apt-get install": "the Debian packages could not be installed",
    "node is not installed": "the Debian package nodejs could not be installed",
    "run `npm ci` in tests/e2e": "npm could not be installed",
    "no second engine for chat templates": "npm could not be installed",
}
"""Reasons that are allowed only while HUB_TESTS_MISSING_PACKAGES, set by .ci/run, names packages."""


def is_allowed(reason: str, *, packages_missing: bool) -> bool:
    """Return whether a test may skip in CI for this reason."""
    prefixes = (*ALLOWED, *ALLOWED_OFFLINE) if packages_missing else tuple(ALLOWED)
    return reason.startswith(prefixes)


def pytest_configure(config: pytest.Config) -> None:
    """Register the policy when CI=true and the user is root.

    Not in the workers of pytest-xdist: their reports reach the main process.
    """
    in_ci = os.environ.get("CI") == "true" and os.geteuid() == 0
    if in_ci and not hasattr(config, "workerinput"):
        missing = bool(os.environ.get("HUB_TESTS_MISSING_PACKAGES"))
        config.pluginmanager.register(SkipPolicy(packages_missing=missing), "skip-policy")


class SkipPolicy:
    """Collects the skips that are not allowed, and makes the session fail with them."""

    def __init__(self, *, packages_missing: bool) -> None:
        self.packages_missing = packages_missing
        self.violations: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Check the reason of a skipped test."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._check(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Check the reason of a skipped module."""
        if report.skipped:
            self._check(report)

    def _check(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        detail: Any = report.longrepr
        reason = str(detail[2] if isinstance(detail, tuple) else detail).removeprefix("Skipped: ")
        if not is_allowed(reason, packages_missing=self.packages_missing):
            self.violations[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Make a session that passed fail when a skip was not allowed."""
        if self.violations and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print each skip that is not allowed, and what to do."""
        if self.violations:
            terminalreporter.section("skips that are not allowed in CI", red=True)
            for test, reason in self.violations.items():
                terminalreporter.line(f"{test}: {reason}")
            terminalreporter.line("Install what is missing in .ci/packages, or add the reason to tests/skip_policy.py.")
