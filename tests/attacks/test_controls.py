"""What the attacks are measured against: the same pull request without an attack, and attacks without a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.attacks.scene import find_failures, hash_tree

if TYPE_CHECKING:
    from tests.attacks.scene import Scene

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("attacks")]


def test_without_attack_and_with_a_right_converter_it_is_green(scene: Scene) -> None:
    done, results = scene.run(scene.write_subject("pass", broken=False))
    assert (done.returncode, results["verdict"]) == (0, "passed"), done.stdout + done.stderr
    assert scene.read_log() == ["ATTACK begins"], "the code of an attack is run"


def test_with_the_broken_converter_alone_it_is_red(scene: Scene) -> None:
    done, results = scene.run(scene.write_subject())
    assert (done.returncode, results["verdict"]) == (1, "failed"), done.stdout + done.stderr
    assert find_failures(results)["test_forward_equivalence"] == "numeric_mismatch"


def test_without_a_sandbox_the_same_attack_changes_the_judge(scene: Scene) -> None:
    """It writes harmless words; that the attempt succeeds shows that the attacks are real."""
    target = scene.root / "secret"
    checkout = scene.write_subject("attempt('append', lambda: append(WHERE['secret']))")
    before, text = hash_tree(target), target.read_bytes()
    try:
        scene.run(checkout, isolation="none")
        assert hash_tree(target) != before
        assert any("done: append" in line for line in scene.read_log())
    finally:
        target.write_bytes(text)
