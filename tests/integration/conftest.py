"""Options, fixtures and JUnit properties of the hub suite; its steps are in `ci.suite`.

Self-contained but for the `ci` package: the suite also runs from an installed distribution.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from ci import settings
from ci.checkpoints import FetchResults, read_checkpoints
from ci.devices import check_device, share_machine
from ci.errors import HubTestsError
from ci.evidence import Evidence, Step, to_property
from ci.layouts import LAYOUT_AXIS
from ci.model_options import apply_model_options
from ci.models import HUB_TEST_CONFIGS, HubModel, load_models
from ci.run_arguments import add_pytest_options, make_pytest_reproduction_arguments, read_pytest_options
from ci.subjects.registry import find_offer
from ci.suite import tests as suite_tests
from ci.suite.cached_step import StepFailedError
from ci.suite.failure_class import classify_failure
from ci.suite.model_run import ModelRun
from ci.suite.pipeline import ModelPipeline
from ci.suite.progress import POLL_SECONDS, ProgressEvent, ProgressWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.run_options import RunOptions

T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the suite's options: its own, and those of `ci.run_options`."""
    group = parser.getgroup("hub-tests")
    group.addoption("--run-extra-slow", action="store_true", help="run the tests marked extra_slow")
    group.addoption("--hub-model", action="append", default=[], help="test only this registry entry; may be repeated")
    group.addoption("--running-file", type=Path, help="file that always holds the ids of the running tests")
    group.addoption("--progress-file", type=Path, help="file to which tests and phases are written as they begin")
    add_pytest_options(group.addoption)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, load another registry if asked to, and give each xdist worker one GPU."""
    config.addinivalue_line("markers", "extra_slow: fetches real Hub models; skipped unless --run-extra-slow")
    config.addinivalue_line("markers", "deep: part of the suite only with --deep")
    config.addinivalue_line("markers", "served: part of the suite only with --consumer")
    try:
        _check_options(config)
        config.pluginmanager.register(make_variant_fixtures(read_pytest_options(config.getoption).subject_or_default()))
    except HubTestsError as wrong:
        raise pytest.UsageError(str(wrong)) from None
    if (running := config.getoption("--running-file")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunningFile(running))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled job keeps the results that it has
    if (progress := config.getoption("--progress-file")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ProgressFile(ProgressWriter(progress)))
    _share_machine()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Run the suite's tests without pytest's logging plugin; what loggers say is captured with stderr.

    The plugin goes through all loggers around each test (`catching_logs` in _pytest/logging.py), and fails the test
    where the thread of Hugging Face's side makes one meanwhile.
    """
    plugins, name = session.config.pluginmanager, "logging-plugin"
    plugin = plugins.get_plugin(name) if session.config.getoption("--run-extra-slow") else None
    if plugin:
        plugins.unregister(plugin)
    try:
        return (yield)
    finally:
        if plugin:
            plugins.register(plugin, name)  # it closes its file when pytest ends


def _check_options(config: pytest.Config) -> None:
    """Load the registry and raise HubTestsError for a wrong option, before any test is collected."""
    options = read_pytest_options(config.getoption)
    if options.registry:
        HUB_TEST_CONFIGS.clear()
        HUB_TEST_CONFIGS.update(load_models(options.registry))
    _chosen_models(config)
    read_checkpoints(options.checkpoints)


class RunningFile:
    """Keeps the ids of the running tests in a file: after a crash, it names the test that was running."""

    def __init__(self, path: Path) -> None:
        """Write an empty file: no test runs yet."""
        self._path = path
        self._running: list[str] = []
        self._write()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Add a test that began; pytest-xdist reports its workers' tests here too."""
        self._running.append(nodeid)
        self._write()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Remove a test that ended."""
        if nodeid in self._running:
            self._running.remove(nodeid)
        self._write()

    def _write(self) -> None:
        self._path.write_text("".join(f"{nodeid}\n" for nodeid in self._running), encoding="utf-8")


class ProgressFile:
    """Writes each test's beginning and end to the progress file; pytest itself prints no dots then."""

    def __init__(self, writer: ProgressWriter) -> None:
        """Write nothing yet."""
        self._writer = writer
        self._reports: dict[str, list[pytest.TestReport]] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write that a test began."""
        self._writer.write(ProgressEvent("started", _test_id(nodeid)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the reports of setup, call and teardown until the test has ended."""
        self._reports.setdefault(report.nodeid, []).append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write that a test ended, with its outcome and its seconds as JUnit counts them."""
        reports = self._reports.pop(nodeid, [])
        outcomes = {report.outcome for report in reports}
        outcome = next((one for one in ("failed", "skipped") if one in outcomes), "passed" if outcomes else "failed")
        seconds = sum(report.duration for report in reports)
        self._writer.write(ProgressEvent("ended", _test_id(nodeid), outcome=cast("Any", outcome), seconds=seconds))

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Print nothing for a test; pytest still counts it."""
        if report.when == "call" or not report.passed:
            outcome = "error" if report.failed and report.when != "call" else report.outcome
            return outcome, "", outcome.upper()
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Let the live line be removed before pytest prints its summary."""
        self._writer.write(ProgressEvent("finished"))
        time.sleep(2 * POLL_SECONDS)


def _test_id(nodeid: str) -> str:
    return nodeid.rsplit("::", 1)[-1]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip extra slow tests unless asked for, and sort the rest by model and step.

    All tests of a model run in one xdist worker.
    """
    here = Path(__file__).parent
    # No chosen model has a variant of an empty parametrization: no test is lost.
    _deselect(config, items, [item for item in items if item.name.endswith("NOTSET]") and here in item.path.parents])
    for option, marker in (("--deep", "deep"), ("--consumer", "served")):
        if not config.getoption(option):
            _deselect(config, items, [item for item in items if item.get_closest_marker(marker)])
    skip = pytest.mark.skip(reason="extra slow: fetches real Hub models; run with --run-extra-slow")
    for item in items:
        if item.get_closest_marker("extra_slow") is None or here not in item.path.parents:
            continue
        if not config.getoption("--run-extra-slow"):
            item.add_marker(skip)
        if name := _model_of(item):
            item.add_marker(pytest.mark.xdist_group(name))
    _sort_by_model(items, [index for index, item in enumerate(items) if _model_of(item) and here in item.path.parents])


def _deselect(config: pytest.Config, items: list[pytest.Item], unwanted: list[pytest.Item]) -> None:
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]


def _sort_by_model(items: list[pytest.Item], places: list[int]) -> None:
    """Sort the items at these places by the registry's order, then the suite's; the others stay where they are."""
    steps = [*suite_tests.DEFAULT_TESTS, suite_tests.SERVED_TEST, *suite_tests.DEEP_TESTS]
    models = list(HUB_TEST_CONFIGS)
    order = {name: place for place, name in enumerate(steps)}  # a test that somebody has put beside comes last
    ours = sorted(
        (items[index] for index in places),
        key=lambda item: (
            models.index(_model_of(item)),
            order.get(cast("Any", item).originalname, len(order)),
            item.name,
        ),
    )
    for index, item in zip(places, ours, strict=True):
        items[index] = item


def _model_of(item: pytest.Item) -> str:
    """Return the name of the registry entry that a test is about, "" for none."""
    return str(item.callspec.params.get("model_name", "")) if hasattr(item, "callspec") else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each chosen model, or one for each of its variants."""
    if "model_name" not in metafunc.fixturenames:
        return
    models = _chosen_models(metafunc.config)
    subject = read_pytest_options(metafunc.config.getoption).subject_or_default()
    names = [axis for axis in ("moe_implementation", "implementation") if axis in metafunc.fixturenames]
    if not names:
        metafunc.parametrize("model_name", list(models), scope="module")
        return
    cases = [(n, v, m) for n, model in models.items() for v, m in _variants(names[0], subject, model)]
    metafunc.parametrize(
        ("model_name", names[0]),
        [pytest.param(name, variant, marks=_marks(variant)) for name, variant, _ in cases],
        ids=[f"{label}-{name}" for name, _, label in cases],
        scope="module",
    )


def _variants(kind: str, subject: str, model: HubModel) -> list[tuple[tuple[str, str], str]]:
    if kind == "moe_implementation":
        return [(("moe", v), v) for v in suite_tests.list_moe_variants(subject, model.checkpoint_format)]
    others = suite_tests.list_other_variants(subject, model.checkpoint_format)
    return [((axis, v), f"{axis}-{v}") for axis, v in (*others, *suite_tests.list_layouts(subject))]


def _marks(variant: tuple[str, str]) -> tuple[pytest.MarkDecorator, ...]:
    """A layout starts processes, so it is tested with `--deep` only."""
    return (pytest.mark.deep,) if variant[0] == LAYOUT_AXIS else ()


def _chosen_models(config: pytest.Config) -> dict[str, HubModel]:
    only = config.getoption("--hub-model")
    models = {name: HUB_TEST_CONFIGS.model(name) for name in only or HUB_TEST_CONFIGS}
    return {name: model for name, model in models.items() if only or not model.optional} or models


def _share_machine() -> None:
    """Take this worker's GPU and cores. Torch may be imported already, and then it reads no variable."""
    os.environ.update(shared := share_machine(os.environ, len(os.sched_getaffinity(0))))
    if threads := shared.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))


@pytest.fixture(scope="session")
def run_options(pytestconfig: pytest.Config) -> RunOptions:
    """The options of this run."""
    return read_pytest_options(pytestconfig.getoption)


@pytest.fixture(scope="session")
def fetch_results(run_options: RunOptions) -> FetchResults:
    """What `--checkpoints` says was fetched before."""
    return read_checkpoints(run_options.checkpoints)


@pytest.fixture(scope="module")
def hub_test_cache_dir() -> Iterator[Path]:
    """Temporary directory for converted checkpoints and traces, removed afterwards.

    The truncated Hugging Face checkpoints live in the store instead, so that they are fetched once.
    """
    root = Path(tempfile.mkdtemp(prefix="hub-tests-"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def model_name(request: pytest.FixtureRequest) -> str:
    """Name of the registry entry under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def model_config(model_name: str) -> HubModel:
    """The registry entry under test."""
    return HUB_TEST_CONFIGS.model(model_name)


@pytest.fixture(scope="module")
def pipeline(
    request: pytest.FixtureRequest,
    model_config: HubModel,
    run_options: RunOptions,
    fetch_results: FetchResults,
    hub_test_cache_dir: Path,
) -> Iterator[ModelPipeline]:
    """The model's steps; each runs once."""
    workdir = hub_test_cache_dir / model_config.name
    workdir.mkdir()
    fetched = fetch_results.result_of(model_config.name)
    own = apply_model_options(run_options, model_config.name)
    run = ModelRun(model_config, own, settings.from_environ(os.environ), workdir)
    with ModelPipeline(run, fetched) as pipeline:
        names = [
            cast("Any", item).originalname for item in request.session.items if _model_of(item) == model_config.name
        ]
        pipeline.export_expected = "test_hub_model_conversion" in names
        yield pipeline
    shutil.rmtree(workdir, ignore_errors=True)


@pytest.fixture(scope="module")
def truncated_hf_path(pipeline: ModelPipeline) -> Path:
    """The truncated Hugging Face checkpoint; tests that need it are skipped where the fetch failed."""
    return Path(_run_or_skip(pipeline, lambda: pipeline.fetch_checkpoint().path))


@pytest.fixture(scope="module")
def fast_llm_path(pipeline: ModelPipeline, truncated_hf_path: Path) -> Path:
    """The checkpoint converted to Fast-LLM's format with default settings."""
    del truncated_hf_path
    return _run_or_skip(pipeline, lambda: pipeline.convert()[0])


@pytest.fixture(scope="module")
def exported_hf_path(pipeline: ModelPipeline, fast_llm_path: Path) -> Path:
    """The Hugging Face directory that the subject exported."""
    if not pipeline.run.offer.exports:
        return fast_llm_path  # the test says that it did not run
    return _run_or_skip(pipeline, pipeline.export)


def _variant_path(variant: str) -> Any:
    @pytest.fixture(scope="module", name=f"fast_llm_path_{variant}")
    def path(fast_llm_path: Path) -> Path:
        return fast_llm_path

    path.__doc__ = f"The converted checkpoint for the variant {variant}: a setting of loading, the files are the same."
    return path


def make_variant_fixtures(subject: str) -> ModuleType:
    """Make a plugin with a fixture for each variant: of hub-tests' own subjects, and of the one under test."""
    plugin = ModuleType("variant_fixtures")
    for names in suite_tests.list_variant_names(find_offer(subject)).values():
        for variant in names:
            setattr(plugin, f"fast_llm_path_{variant}", _variant_path(variant))
    return plugin


def _run_or_skip(pipeline: ModelPipeline, work: Callable[[], T]) -> T:
    try:
        return work()
    except StepFailedError as failed:
        pytest.skip(f"{failed.step}[{pipeline.run.model.name}] failed: {failed.error}")


@pytest.fixture
def record(request: pytest.FixtureRequest, pipeline: ModelPipeline, record_property: Any) -> Any:
    """A context around a test's body, `with record() as note:`; it writes the test's Evidence.

    The Evidence is what `note` was given last, or the error.
    """

    pipeline.run.clock.take()  # what an earlier test left
    if (progress := request.config.getoption("--progress-file")) is not None:
        pipeline.run.clock.listener = ProgressWriter(progress).make_listener(request.node.name)

    @contextmanager
    def recording(variant: str | None = None) -> Iterator[Callable[[Evidence], None]]:
        step = cast("Step", request.function.__name__)
        kept = [replace(pipeline.start_evidence(step, variant), reproduce=_reproduction(request, pipeline.run.options))]
        try:
            check_device(pipeline.run.device)
            yield lambda evidence: kept.append(replace(evidence, reproduce=kept[0].reproduce))
        except Exception as failed:
            unexplained = kept[-1].failure_class is None
            error = pipeline.explain_failure(failed) if unexplained else failed
            reason = error.error if isinstance(error, StepFailedError) else error
            if unexplained:
                kept.append(replace(kept[-1], failure_class=classify_failure(error), diagnosis=str(reason)))
            if isinstance(reason, HubTestsError):
                raise pytest.fail.Exception(str(reason), pytrace=False) from None
            raise reason from None
        finally:
            record_property(*to_property(replace(kept[-1], phases=pipeline.run.clock.take())))

    return recording


def _reproduction(request: pytest.FixtureRequest, options: RunOptions) -> str:
    """Return the command line that runs this test again."""
    test = f"tests/integration/test_hub_integration.py::{request.node.name}"
    return shlex.join(["pytest", test, "--run-extra-slow", *make_pytest_reproduction_arguments(options)])
