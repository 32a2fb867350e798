"""The list of skips that remain in CI: a skip outside it fails, and the list has no entry that no test uses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.skip_policy import ALLOWED, ALLOWED_OFFLINE, is_allowed

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent
SKIPPING = """
    import pytest

    def test_passes():
        pass

    def test_skips():
        pytest.skip({reason!r})

    @pytest.mark.xfail(reason="known", strict=True)
    def test_fails_as_expected():
        raise ValueError
"""


@pytest.fixture
def in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("HUB_TESTS_MISSING_PACKAGES", raising=False)


def session(pytester: pytest.Pytester, reason: str) -> pytest.RunResult:
    pytester.makepyfile(SKIPPING.format(reason=reason))
    return pytester.runpytest_inprocess("-p", "tests.skip_policy", "-p", "no:cacheprovider")


def test_a_skip_outside_the_list_fails_the_session_and_is_named(pytester: pytest.Pytester, in_ci: None) -> None:
    result = session(pytester, "apt-get install a-tool")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*skips that are not allowed in CI*", "*::test_skips: apt-get install a-tool"])


@pytest.mark.parametrize("reason", ALLOWED)
def test_a_skip_of_the_list_is_allowed(reason: str) -> None:
    assert is_allowed(f"{reason} and more", packages_missing=False)


def test_an_allowed_skip_changes_nothing(pytester: pytest.Pytester, in_ci: None) -> None:
    assert session(pytester, "needs CUDA").ret == pytest.ExitCode.OK


def test_a_skipped_module_counts_too(pytester: pytest.Pytester, in_ci: None) -> None:
    pytester.makepyfile("import pytest\npytest.importorskip('no_such_module')\n")
    pytester.makepyfile(test_other="def test_passes():\n    pass\n")
    result = pytester.runpytest_inprocess("-p", "tests.skip_policy", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "no_such_module" in result.stdout.str()


def test_packages_that_could_not_be_installed_are_an_excuse_only_while_they_are_missing(
    pytester: pytest.Pytester, in_ci: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TESTS_MISSING_PACKAGES", "nftables")
    assert session(pytester, "apt-get install nftables").ret == pytest.ExitCode.OK
    for reason in ALLOWED_OFFLINE:
        assert is_allowed(reason, packages_missing=True)
        assert not is_allowed(reason, packages_missing=False)


@pytest.mark.parametrize(("ci", "user"), [("", 0), ("true", 1000)])
def test_elsewhere_skips_are_free(
    pytester: pytest.Pytester, in_ci: None, monkeypatch: pytest.MonkeyPatch, ci: str, user: int
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert session(pytester, "anything").ret == pytest.ExitCode.OK


def test_every_entry_is_a_reason_that_a_test_gives() -> None:
    sources = [path for path in TESTS.rglob("*.py") if "node_modules" not in path.parts]
    text = "\n".join(path.read_text() for path in sources if path.stem not in ("skip_policy", "test_skip_policy"))
    assert [reason for reason in (*ALLOWED, *ALLOWED_OFFLINE) if reason not in text] == []


def offline(tmp_path: Path, *installed: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/packages with an apt-get without a network and a dpkg that knows only `installed`."""
    tools = {
        "apt-get": 'echo "E: Temporary failure resolving" >&2; exit 100',
        "dpkg-query": f'case " {" ".join(installed)} " in *" $3 "*) printf installed ;; *) exit 1 ;; esac',
    }
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = [str(TESTS.parent / ".ci/packages"), str(tmp_path / "missing")]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_packages_that_apt_cannot_bring_are_named_in_one_line(tmp_path: Path) -> None:
    answer = offline(tmp_path, "iproute2", "systemd")
    assert (answer.returncode, answer.stdout) == (0, "")
    (line,) = answer.stderr.splitlines()
    assert "not installed: nftables e2fsprogs" in line
    assert "E: Temporary failure resolving" in line
    assert (tmp_path / "missing").read_text().startswith("nftables e2fsprogs ")
