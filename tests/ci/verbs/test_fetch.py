"""`fetch` in Actions: what can be tested goes into the matrix, what cannot is told with its reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.github.job_outputs import FetchOutputs, unpack_record
from ci.hub.code_files import FetchedCode
from ci.hub.fetch import Checkpoint
from ci.verbs.fetch import write_fetch_outputs
from tests.ci.github.test_actions import runner_reads
from tests.ci.report import samples

if TYPE_CHECKING:
    from pathlib import Path


def test_only_fetched_entries_are_in_the_matrix(tmp_path: Path) -> None:
    plan = samples.plan_of("smollm2", "mistral")
    store = tmp_path / "store"
    fetched = Checkpoint("o/m", "1" * 40, 2, str(store / "checkpoints/m"), "miss", 7, 0, 0, 0.0, "0" * 64, 2)
    failures = {"mistral": InfrastructureError("the Hub answers 503")}
    code = {"smollm2": FetchedCode(store / "code/m", "d" * 64, 5)}
    write_fetch_outputs(plan, {"smollm2": fetched}, failures, store=store, output=tmp_path / "output", code=code)
    outputs = runner_reads((tmp_path / "output").read_text())
    assert [row["name"] for row in json.loads(outputs["matrix"])["include"]] == ["smollm2"]
    assert (outputs["count"], outputs["moved"]) == ("1", "5")
    handed_over = unpack_record(FetchOutputs, outputs["delivery"], what="delivery")
    assert handed_over.checkpoints["smollm2"].path == "checkpoints/m"
    assert handed_over.code == {"smollm2": "d" * 64}
    assert handed_over.problems["mistral"].failure_class == "hub_unavailable"
