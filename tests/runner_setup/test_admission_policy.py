"""The rules that the admission hook reads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from hub_runner.admission_policy import build_policy
from hub_runner.config import SlotSpec
from hub_runner.render import render_host_files

if TYPE_CHECKING:
    from hub_runner.config import Config


def test_the_policy_is_the_table_with_its_owner_and_the_stores_writers(config: Config) -> None:
    policy = build_policy(config)
    assert (policy["repository"], policy["organization"]) == ("org/repo", "")
    assert policy["events"] == ("schedule", "workflow_dispatch", "issue_comment")
    assert policy["store_uids"] == [60702]


def test_a_host_without_a_writer_lets_nobody_write(config: Config) -> None:
    assert build_policy(replace(config, slots=config.slots[:2]))["store_uids"] == []


def test_the_slot_that_fills_the_compile_cache_is_named(config: Config) -> None:
    assert build_policy(config)["nightly_uids"] == []
    slots = (*config.slots, SlotSpec(gpus=(7,), fills_compile_cache=True))
    assert build_policy(replace(config, slots=slots))["nightly_uids"] == [60700 + len(config.slots)]


def test_the_installed_file_holds_it(config: Config) -> None:
    file = render_host_files(config)["opt/hub-runner/admission.json"]
    assert json.loads(file.text) == json.loads(json.dumps(build_policy(config)))
