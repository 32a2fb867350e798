"""The guide says what is so: verbs, units, labels and limits that it names exist as it names them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from ci.doctor.gpu_checks import APPLICATION_XIDS
from hub_runner.__main__ import app
from hub_runner.config_file import load_config
from hub_runner.render import labels_by_gpu_count, render_all_files, render_host_files
from hub_runner.slot_state import SlotStateFile
from hub_runner.slot_status import format_metrics
from tests.runner_setup.conftest import EXAMPLE
from tests.runner_setup.test_units import MOST_EXPOSED, MOST_EXPOSED_SLOT

if TYPE_CHECKING:
    from hub_runner.config import Config
    from hub_runner.layout import Layout

GUIDE = EXAMPLE.with_name("README.md").read_text()


@pytest.fixture
def example() -> Config:
    return load_config(EXAMPLE)


def test_every_verb_is_one() -> None:
    verbs = {command.callback.__name__.replace("_", "-") for command in app.registered_commands if command.callback}
    code = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL) + re.findall(r"`([^`\n]+)`", GUIDE)
    called = re.compile(r"(?:^|sudo )hub-runner (?:--config \S+ )?([a-z]+)", re.MULTILINE)
    used = {verb for text in code for verb in called.findall(text)}
    assert used <= verbs, used - verbs
    assert {"install", "status", "drain", "resume", "check", "janitor", "doctor", "render"} <= used


def test_every_unit_is_rendered(example: Config) -> None:
    there = " ".join(render_host_files(example))
    for unit in re.findall(r"`(hub-runner-[a-z]+)(?:@|\.timer|-N|`)", GUIDE):
        assert unit in there


def test_the_labels_are_the_examples(example: Config) -> None:
    labels = labels_by_gpu_count(example)
    for name, size in (("runner", "1"), ("fetch-runner", "store")):
        example_labels = re.search(rf"^ +{name}: '(.*)'$", GUIDE, re.MULTILINE)
        assert example_labels
        assert json.loads(example_labels[1]) == labels[size]


def test_the_clusters_files_are_the_examples(example: Config) -> None:
    for name in re.findall(r"out/(kubernetes/[a-z.-]+yaml)", GUIDE):
        assert name in render_all_files(example)
    assert example.kubernetes
    assert f"secret generic {example.kubernetes.secret}" in GUIDE
    sizes = re.search(r"for size in ([\d ]+);", GUIDE)
    assert sizes
    assert {f"kubernetes/values-gpus-{size}.yaml" for size in sizes[1].split()} <= set(render_all_files(example))


def test_figures_and_lists_are_the_codes() -> None:
    assert f"every unit {MOST_EXPOSED} or better, and the slots {MOST_EXPOSED_SLOT}" in GUIDE
    assert f"({', '.join(map(str, sorted(APPLICATION_XIDS)))})" in GUIDE


def test_every_metric_is_told(example: Config, layout: Layout) -> None:
    state_files = [SlotStateFile(layout.state, slot.index) for slot in example.resolved_slots]
    told = format_metrics(example, state_files, unknown_runners=0, now=0.0)
    for metric in re.findall(r"hub_runner_[a-z_]+", GUIDE):
        assert f"# TYPE {metric} " in told
