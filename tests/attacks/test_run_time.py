"""A pull request whose code attacks its own verdict from the subject's process: never green, always with a class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.attacks.cases import ATTACKS
from tests.attacks.scene import find_failures, hash_tree, list_leftovers, list_processes

if TYPE_CHECKING:
    from tests.attacks.scene import Scene

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("attacks")]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_from_the_subjects_process_is_red(name: str, scene: Scene) -> None:
    attack = ATTACKS[name]
    checkout = scene.write_subject(attack.code)
    before = hash_tree(*scene.protected)
    done, results = scene.run(checkout, **dict(attack.environ))
    said = scene.read_log()
    assert len(said) >= 2, "the attack was not made: " + done.stdout + done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    assert results["verdict"] == "failed"
    assert (scene.report / "report.md").is_file()
    failures = find_failures(results)
    failed = failures.get("test_conversion") or failures.get("test_forward_equivalence")
    assert failed in attack.classes, (failures, done.stdout)
    succeeded = [line for line in said if "done:" in line or "leaked" in line]
    assert not [line for line in succeeded if not (attack.allowed and re.search(f"done: {attack.allowed}", line))]
    assert hash_tree(*scene.protected) == before
    assert list(scene.temporary.iterdir()) == []
    assert list_processes(scene.marker) == []
    assert list_leftovers(scene.marker) == []
    assert sum(path.stat().st_size for path in scene.report.rglob("*") if path.is_file()) < 2**30
    assert not commands_in(done.stdout), "outside of the pause the runner would obey"


def commands_in(text: str) -> list[str]:
    """List the lines that a runner would take for commands of the pull request."""
    return [line for line in text.splitlines() if re.match(r"\s*(::(set-env|add-path|error)|##\[)", line)]
