"""How a worker is started: its program, its environment, and what only a sandbox gets."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import RequestError
from ci.subjects import worker_main
from ci.subjects.compile_cache import INSIDE, VARIABLES
from ci.subjects.exchange import Exchange
from ci.subjects.sandbox import HOME, NO_SANDBOX, Isolation
from ci.subjects.worker_launch import WORKER_MAIN, WorkerLaunch


def launch(path: tuple[Path, ...] = (), python: Path = Path(sys.executable), **environ: str) -> WorkerLaunch:
    return WorkerLaunch("reference", python, path, environ)


def test_a_checkout_of_this_package_brings_its_own_program(tmp_path: Path) -> None:
    assert launch().program == Path(worker_main.__file__)
    program = tmp_path / WORKER_MAIN
    assert launch((tmp_path,)).program == Path(worker_main.__file__)
    program.parent.mkdir(parents=True)
    program.touch()
    assert launch((tmp_path / "other", tmp_path)).program == program
    assert launch((tmp_path,)).program == program
    assert WorkerLaunch("fast_llm", Path("python"), (tmp_path,), {}).program == Path(worker_main.__file__)


@pytest.mark.parametrize("link", ["ci", "ci/subjects", "ci/subjects/worker_main.py"])
def test_a_checkout_whose_program_is_a_link_to_ours_is_refused(link: str, tmp_path: Path) -> None:
    """Today's code would be tested, and pass, in place of the checkout's."""
    ours, place = Path(worker_main.__file__).parents[2] / link, tmp_path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(ours)
    with pytest.raises(RequestError, match="is a link that leads out of it"):
        launch((tmp_path,))


@pytest.mark.parametrize("directory", ["ci", "ci/subjects"])
def test_a_checkout_without_the_program_is_refused(directory: str, tmp_path: Path) -> None:
    (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "ci/__init__.py").touch()
    with pytest.raises(
        RequestError, match=r"--subject-path .*: its ci/ has no worker program \(ci/subjects/worker_main"
    ):
        launch((tmp_path,))
    assert WorkerLaunch("fast_llm", Path("python"), (tmp_path,), {}).program == Path(worker_main.__file__)


def test_the_environment_is_allowed_variables_and_fixed_ones(tmp_path: Path) -> None:
    made = launch((tmp_path,), CUDA_VISIBLE_DEVICES="1", HF_TOKEN="secret", HF_HUB_OFFLINE="0").make_environment(
        tmp_path
    )
    assert "HF_TOKEN" not in made
    assert (made["CUDA_VISIBLE_DEVICES"], made["HF_HUB_OFFLINE"], made["PYTHONPATH"]) == ("1", "1", str(tmp_path))
    assert made["HOME"] == str(tmp_path)
    assert "PYTHONPATH" not in launch().make_environment(tmp_path)


def test_the_subjects_own_variables_reach_it_in_the_sandbox_too(tmp_path: Path) -> None:
    isolation = Isolation(Path("/usr/bin/bwrap"), "bubblewrap", as_root=False, version=(0, 8, 0))
    own = {"MAX_JOBS": "4", "HF_HUB_OFFLINE": "0", "HOME": "/elsewhere"}
    launched = replace(launch(MAX_JOBS="2"), variables=own, isolation=isolation)
    made = launched.make_environment(tmp_path)
    assert (made["MAX_JOBS"], made["HF_HUB_OFFLINE"], made["HOME"]) == ("4", "1", str(tmp_path)), "the fixed ones win"
    words = launched.make_command(("3", "4"), made, Exchange(tmp_path / "exchange", NO_SANDBOX))
    assert words[words.index("MAX_JOBS") - 1 : words.index("MAX_JOBS") + 2] == ["--setenv", "MAX_JOBS", "4"]
    assert words[words.index("HOME") + 1] == HOME


def test_only_a_sandbox_gets_a_compile_cache_and_always_at_one_path(tmp_path: Path) -> None:
    sandboxed = Isolation(Path("/usr/bin/bwrap"), "bubblewrap", as_root=False)
    launched = replace(launch(TRITON_CACHE_DIR="/of/the/judge"), isolation=sandboxed)
    exchange = Exchange(tmp_path / "exchange", launched.isolation)

    def command() -> str:
        return " ".join(launched.make_command((), launched.make_environment(tmp_path), exchange))

    assert "CACHE" not in command()
    exchange.compiled = tmp_path / "compiled.1"
    assert f"--bind {tmp_path}/compiled.1 {INSIDE}" in command()
    assert all(f"--setenv {name} {value}" in command() for name, value in VARIABLES.items())
    assert "/of/the/judge" not in command()
    launched = replace(launched, isolation=NO_SANDBOX)
    assert INSIDE not in command()
    assert not set(VARIABLES) & set(launch().make_environment(tmp_path))
