"""The janitor: what is over budget goes, what a job may be using stays."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError
from hub_runner import janitor
from hub_runner.__main__ import main
from hub_runner.files import acquire_lock
from hub_runner.janitor import delete, plan_removals, prune_store
from hub_runner.slot_state import SlotState, SlotStateFile
from tests.runner_setup.conftest import config_text

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout
    from hub_runner.slot_state import Phase

NOW = 2_000_000_000.0
DAY = 86400.0


def filled(path: Path, size: int, days: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return path


def names(config: Config, layout: Layout) -> list[str]:
    return [str(each.path.relative_to(layout.root)) for each in plan_removals(config, layout, now=NOW)]


def phase(layout: Layout, slot: int, phase: Phase) -> None:
    SlotStateFile(layout.state, slot).write(SlotState(phase=phase))


def test_old_runners_go_and_the_current_one_stays_whatever_its_number(config: Config, layout: Layout) -> None:
    for version in ("2.99.0", "2.100.0", "2.101.0", "2.9.0"):
        filled(layout.runners / version / "run.sh", 10)
    (layout.runners / "current").symlink_to("2.9.0")
    assert names(config, layout) == ["var/lib/hub-runner/runners/2.99.0"]


def test_a_runner_that_was_never_finished_goes_after_a_day(config: Config, layout: Layout) -> None:
    (layout.runners / "current").symlink_to("2.9.0")
    for name, days in ((".2.100.0", 2.0), (".2.101.0.tar.gz", 0.1)):
        filled(layout.runners / name, 10, days)
    assert names(config, layout) == ["var/lib/hub-runner/runners/.2.100.0"]


def test_logs_go_by_age_and_then_by_room_oldest_first(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(config, janitor=replace(config.janitor, logs_gib=0))
    for name, days in (("ancient", 31.0), ("old", 3.0), ("new", 1.0)):
        filled(layout.logs / f"slot-0/{name}.log", 100, days)
    assert names(config, layout) == ["var/log/hub-runner/slot-0/ancient.log"]
    assert [name.rpartition("/")[2] for name in names(small, layout)] == ["ancient.log", "old.log", "new.log"]


@pytest.mark.parametrize(
    ("state", "goes"),
    [("free", True), ("quarantined", True), ("starting", False), ("running", False), ("verifying_clean", False)],
)
def test_the_disk_of_a_slot_goes_only_at_rest(config: Config, layout: Layout, state: Phase, goes: bool) -> None:
    filled(layout.image(0), 4096)
    phase(layout, 0, state)
    assert names(config, layout) == (["var/lib/hub-runner/slots/0/disk.img"] if goes else [])


def test_a_mounted_disk_and_a_slot_that_is_no_more(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(layout.image(0), 10)
    filled(layout.image(7), 10)
    monkeypatch.setattr(janitor, "is_mounted", lambda place: place == layout.disk(0))
    assert names(config, layout) == ["var/lib/hub-runner/slots/7/disk.img"]


def test_removing_removes_directories_and_files_and_follows_no_link(layout: Layout, tmp_path: Path) -> None:
    kept = filled(tmp_path / "kept/file", 10)
    filled(layout.runners / "2.1.0/run.sh", 10)
    (layout.runners / "2.1.0/link").symlink_to(kept.parent)
    for path in (layout.runners / "2.1.0", filled(layout.logs / "slot-0/a.log", 1), layout.logs / "gone"):
        delete(janitor.Removal(path, 0, ""))
        assert not path.exists()
    assert kept.exists()


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A store of 900 GiB, of which pruning takes half; what was asked of it besides listing."""
    asked: list[tuple[str, ...]] = []

    def cache(verb: str, store: Path, *more: str) -> list[dict[str, Any]]:
        if verb == "prune":
            asked.append((verb, *more))
        return [{"bytes": 450 << 30, "state": "removed" if verb == "prune" else "complete"}, HALF]

    monkeypatch.setattr(janitor, "run_cache_verb", cache)
    return asked


HALF = {"bytes": 450 << 30, "state": "complete"}


def test_the_store_is_pruned_while_no_job_runs(config: Config, layout: Layout, stored: list[tuple[str, ...]]) -> None:
    assert "pruned 1 checkpoints, 460800 MiB" in prune_store(config, layout, dry_run=False)
    assert stored == [("prune", "--max-size", str(500 << 30))]


def test_the_store_waits_for_a_running_job(config: Config, layout: Layout, stored: list[tuple[str, ...]]) -> None:
    phase(layout, 1, "running")
    assert "deferred, slot 1 is in use" in prune_store(config, layout, dry_run=False)
    assert stored == []


def test_a_dry_run_prunes_nothing(config: Config, layout: Layout, stored: list[tuple[str, ...]]) -> None:
    assert "to be pruned" in prune_store(config, layout, dry_run=True)
    assert stored == []


def test_the_store_is_not_pruned_while_a_job_starts(config: Config, layout: Layout) -> None:
    with (
        acquire_lock(layout.run / "store.lock", what="the store", shared=True),
        pytest.raises(Exception, match="the store is taken"),
    ):
        prune_store(config, layout, dry_run=False)


def test_the_verb_says_what_it_does(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    layout.config.write_text(config_text())
    old = [filled(layout.runners / version / "run.sh", 10).parent for version in ("2.1.0", "2.2.0", "2.3.0")]
    (layout.runners / "current").symlink_to("2.3.0")
    assert main(["--root", str(layout.root), "janitor", "--dry-run"]) == 0
    assert f"would remove {old[0]}" in capsys.readouterr().out
    assert old[0].exists()
    assert main(["--root", str(layout.root), "janitor"]) == 0
    assert "store: 0 MiB" in capsys.readouterr().out
    assert [path.exists() for path in old] == [False, True, True]


def test_the_store_is_asked_through_hub_tests_itself(tmp_path: Path) -> None:
    assert janitor.run_cache_verb("ls", tmp_path) == []
    assert janitor.run_cache_verb("prune", tmp_path, "--max-size", "1") == []
    with pytest.raises(InfrastructureError, match="hub-tests cache bogus"):
        janitor.run_cache_verb("bogus", tmp_path)
