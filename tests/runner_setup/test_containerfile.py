"""The image of a runner's pod: linted, compared with what a host gets, and built where there is a builder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hub_runner.config_file import load_config
from hub_runner.kubernetes import RUNNER_UID
from tests.runner_setup.conftest import EXAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTAINERFILE = EXAMPLE.with_name("Containerfile")
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
RUNNER_IMAGE = os.environ.get("HUB_TESTS_RUNNER_IMAGE")
"""The base as the builder names it, such as oci:DIRECTORY:TAG, where the registry's cannot be had."""
HOST_ONLY = {"nftables", "e2fsprogs", "systemd"}
"""Packages of what a host does around a job: the cluster does it otherwise."""


def lint(text: str) -> str:
    program = shutil.which("hadolint", path=TOOLS)
    if program is None:
        pytest.skip("hadolint is not installed: make brings it")
    command = [program, "--no-color", "--failure-threshold=style", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" + (f"exit code {done.returncode}" if done.returncode else "")


def installed(text: str) -> set[str]:
    words = re.findall(r"apt-get install --yes --no-install-recommends \\\n(.*?)\\\n", text, re.DOTALL)
    return set(" ".join(words).split())


def test_the_linter_finds_nothing() -> None:
    assert lint(CONTAINERFILE.read_text()) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("# hadolint ignore=DL3008\n", "", "DL3008"),
        ("USER 1001\n", "USER 0\n", "DL3002"),
        ("--yes --no-install-recommends", "--no-install-recommends", "DL3014"),
        ("FROM ${RUNNER}", "FROM ghcr.io/actions/actions-runner", "DL3006"),
    ],
)
def test_the_linter_would_find_it(right: str, wrong: str, rule: str) -> None:
    text = CONTAINERFILE.read_text()
    assert right in text
    assert rule in lint(text.replace(right, wrong))


def test_a_pod_has_what_a_host_has() -> None:
    script = EXAMPLE.with_name("install.sh").read_text()
    packages = set(script.partition('packages="')[2].partition('"')[0].split())
    assert packages - HOST_ONLY <= installed(CONTAINERFILE.read_text())


def test_what_it_copies_is_in_the_checkout() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert copied
    assert all((EXAMPLE.parents[1] / name).is_file() for line in copied for name in line.split())


def test_the_values_use_the_image_of_the_same_runner() -> None:
    cluster = load_config(EXAMPLE).kubernetes
    version = re.search(
        r"^ARG RUNNER=ghcr\.io/actions/actions-runner:([\d.]+)$", CONTAINERFILE.read_text(), re.MULTILINE
    )
    assert cluster
    assert version
    assert cluster.image.endswith(f"/hub-tests-runner:{version[1]}")


def test_its_last_user_is_not_root() -> None:
    assert re.findall(r"^USER (\S+)$", CONTAINERFILE.read_text(), re.MULTILINE)[-1] == str(RUNNER_UID)


@dataclass(frozen=True)
class Builder:
    """A program that builds, the options before its verb, and those of its verb `build`."""

    program: str
    options: tuple[str, ...] = ()
    of_build: tuple[str, ...] = ()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *self.options, *words], capture_output=True, text=True, check=False)


def find_builder(storage: Path) -> Builder | None:
    """A builder that answers: a docker without its daemon builds nothing. Buildah keeps everything below `storage`."""
    kept = ("--storage-driver=vfs", f"--root={storage}/store", f"--runroot={storage}/run")
    known = {
        "podman": ((), ("--format=docker",)),
        "buildah": (kept, ("--format=docker", "--isolation=chroot")),  # in a container too, as root
        "docker": ((), ()),
    }
    for name, (options, of_build) in known.items():
        builder = Builder(shutil.which(name) or "", options, of_build)
        if builder.program and builder.run("info").returncode == 0:
            return builder
    return None


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    """A folder for gigabytes that do not stay."""
    yield tmp_path / "images"
    shutil.rmtree(tmp_path / "images", ignore_errors=True)


@pytest.mark.long
def test_it_builds(storage: Path) -> None:
    builder = find_builder(storage)
    if builder is None:
        pytest.skip("no builder of container images here")
    base = RUNNER_IMAGE or re.findall(r"^ARG RUNNER=(\S+)$", CONTAINERFILE.read_text(), re.MULTILINE)[0]
    if (pulled := builder.run("pull", base)).returncode:
        assert not RUNNER_IMAGE, pulled.stderr
        last = (pulled.stderr.strip().splitlines() or ["no answer"])[-1]
        pytest.skip(f"no builder of container images has the base here: set HUB_TESTS_RUNNER_IMAGE ({last[:200]})")
    words = ("--build-arg", f"RUNNER={base}", "--file", str(CONTAINERFILE), "--tag", "hub-tests-runner:test")
    done = builder.run("build", *builder.of_build, *words, str(EXAMPLE.parents[1]))
    assert done.returncode == 0, done.stderr[-3000:]
    inspect = ("inspect", "--type=image") if builder.program.endswith("buildah") else ("image", "inspect")
    seen = builder.run(*inspect, "hub-tests-runner:test").stdout
    assert f'"User": "{RUNNER_UID}"' in seen
    assert "HUB_TESTS_NODE_MODULES=/opt/hub-tests-node/node_modules" in seen
