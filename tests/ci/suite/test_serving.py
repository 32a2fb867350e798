"""test_served_export as pytest runs it: green with an engine, and no verdict without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ci.suite.test_deep import REFERENCE, ROOT, copy_with_change, run_deep_test

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.server import HubServer

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("served")]
SERVED = (*REFERENCE, "--consumer", "transformers")
CONFIG = "(exported / 'config.json')"


def test_an_export_that_is_served_as_its_original_is_green(hub: HubServer, tmp_path: Path) -> None:
    code, evidence, output = run_deep_test(ROOT, tmp_path, hub, "mixtral", "test_served_export", SERVED)
    assert code == 0, output
    assert (evidence.step, evidence.failure_class) == ("test_served_export", None)
    assert {measure.dtype for measure in evidence.measures} == {"float32", "bfloat16"}
    assert [gap.dtype for gap in evidence.served] == ["float32", "bfloat16"]
    assert evidence.coverage["served by"].startswith("transformers ")
    assert evidence.figures["bfloat16.trainer_rollout_rms"] > 0
    assert "--consumer=transformers" in evidence.reproduce


def test_an_engine_that_is_not_here_is_said_and_is_no_failure(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # there a skip of the inner run would be a failure
    words = (*REFERENCE, "--consumer", "vllm")
    code, evidence, output = run_deep_test(ROOT, tmp_path, hub, "llama", "test_served_export", words)
    assert code == 0, output
    assert "1 skipped" in output
    assert (evidence.failure_class, evidence.unmet_need) == ("variant_did_not_run", "vllm")
    assert "run hub-tests env build vllm" in evidence.diagnosis


def test_without_a_consumer_the_round_trip_says_that_nothing_served_it(hub: HubServer, tmp_path: Path) -> None:
    code, evidence, output = run_deep_test(ROOT, tmp_path, hub, "llama", "test_hub_model_conversion")
    assert code == 0, output
    assert evidence.coverage["served"].startswith("not covered: no engine served the export")


def test_an_export_that_is_served_otherwise_is_red(hub: HubServer, tmp_path: Path) -> None:
    file, line = "ci/suite/serving.py", "    exported, reference = pipeline.export(), pipeline.judge().reference\n"
    damage = f"{line}    {CONFIG}.write_text({CONFIG}.read_text().replace('theta\": 1', 'theta\": 2'))\n"
    root = copy_with_change(tmp_path, file, line, damage)
    code, evidence, output = run_deep_test(root, tmp_path, hub, "llama", "test_served_export", SERVED)
    assert code == 1, output
    assert evidence.failure_class == "numeric_mismatch"
    assert "scores the export's tokens" in evidence.diagnosis
