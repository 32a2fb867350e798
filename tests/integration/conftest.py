"""Options, fixtures and JUnit properties of the hub suite; its steps live in `ci.suite`.

Self-contained but for the `ci` package: the suite also runs from an installed distribution.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from ci import settings, suite_tests
from ci.errors import HubTestsError
from ci.evidence import Evidence, Step, to_property
from ci.models import HUB_TEST_CONFIGS, HubModel, load_models
from ci.subjects.registry import SUBJECT_NAMES, choose_default_subject
from ci.suite import Chain, StepFailedError, SuiteOptions, failure_class
from ci.suite_options import check_device, default_device, layers_option, read_checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.subjects.registry import SubjectName


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suite's own options; `hub-tests run` sets them, people may."""
    group = parser.getgroup("hub-tests")
    group.addoption("--run-extra-slow", action="store_true", help="run the tests marked extra_slow")
    group.addoption("--subject", choices=SUBJECT_NAMES, help="default: fast_llm where importable, else reference")
    group.addoption("--subject-python", type=Path, help="interpreter in which the subject lives")
    group.addoption(
        "--subject-path",
        type=Path,
        action="append",
        default=[],
        help="on that interpreter's path; write --subject-path=DIR, since pytest looks for a conftest.py in a lone DIR",
    )
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    group.addoption("--layers", type=_layers, help="layers to keep: a number or auto; default: the registry's")
    group.addoption("--registry", type=Path, help="another models.toml")
    group.addoption("--hub-model", action="append", default=[], help="only this registry entry (may be repeated)")
    group.addoption("--checkpoints", type=Path, help="what `hub-tests fetch --json` printed: pins what is tested")
    group.addoption("--subject-timeout", type=float, default=1800.0, help="seconds a subject may take for one call")
    group.addoption("--subject-logs", type=Path, help="directory for the subject's output")
    group.addoption("--running-file", type=Path, help="kept current with the ids of the tests that are running")
    group.addoption("--deep", action="store_true", help="also the tests of every config key, weight and gradient")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the mark where no ini file does, loads another registry, gives each xdist worker one GPU."""
    config.addinivalue_line("markers", "extra_slow: fetches real Hub models; skipped unless --run-extra-slow")
    config.addinivalue_line("markers", "deep: part of the suite only with --deep")
    try:
        _read_request(config)
    except HubTestsError as wrong:
        raise pytest.UsageError(str(wrong)) from None
    if (running := config.getoption("--running-file")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunningFile(running))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is cancelled keeps what it has found
    _own_gpu(os.environ)


def _read_request(config: pytest.Config) -> None:
    """What the options name is there and makes sense, before anything is collected. Raises HubTestsError."""
    if registry := config.getoption("--registry"):
        HUB_TEST_CONFIGS.clear()
        HUB_TEST_CONFIGS.update(load_models(registry))
    _chosen(config)
    read_checkpoints(config.getoption("--checkpoints"))


def _layers(text: str) -> int | Literal["auto"]:
    try:
        return layers_option(text)
    except HubTestsError as wrong:
        raise argparse.ArgumentTypeError(str(wrong).removeprefix(f"--layers {text}: ")) from None


class RunningFile:
    """Keeps a file current with the tests that began and did not end: after a crash it names the culprit."""

    def __init__(self, path: Path) -> None:
        """Nothing runs yet."""
        self._path = path
        self._running: list[str] = []
        self._write()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test began; pytest-xdist reports its workers' tests here too."""
        self._running.append(nodeid)
        self._write()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test ended, however."""
        if nodeid in self._running:
            self._running.remove(nodeid)
        self._write()

    def _write(self) -> None:
        self._path.write_text("".join(f"{nodeid}\n" for nodeid in self._running), encoding="utf-8")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what is extra slow unless asked for; model after model, each in the chain's order, on one xdist worker."""
    here = Path(__file__).parent
    if empty := [item for item in items if item.name.endswith("NOTSET]") and here in item.path.parents]:
        config.hook.pytest_deselected(items=empty)  # no model here has such a variant: nothing was left out
        items[:] = [item for item in items if item not in empty]
    if not config.getoption("--deep"):
        deep = [item for item in items if item.get_closest_marker("deep")]
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if item not in deep]
    skip = pytest.mark.skip(reason="extra slow: fetches real Hub models; run with --run-extra-slow")
    for item in items:
        if item.get_closest_marker("extra_slow") is None or here not in item.path.parents:
            continue
        if not config.getoption("--run-extra-slow"):
            item.add_marker(skip)
        if name := _model_of(item):
            item.add_marker(pytest.mark.xdist_group(name))
    places = [index for index, item in enumerate(items) if _model_of(item) and here in item.path.parents]
    steps, models = [*suite_tests.CHAIN, *suite_tests.DEEP], list(HUB_TEST_CONFIGS)
    ours = sorted(
        (items[index] for index in places),
        key=lambda item: (models.index(_model_of(item)), steps.index(cast("Any", item).originalname), item.name),
    )
    for index, item in zip(places, ours, strict=True):
        items[index] = item


def _model_of(item: pytest.Item) -> str:
    """The registry entry that a test is about."""
    return str(item.callspec.params.get("model_name", "")) if hasattr(item, "callspec") else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a model of `HUB_TEST_CONFIGS`, and one a variant where the test is about variants."""
    if "model_name" not in metafunc.fixturenames:
        return
    models = _chosen(metafunc.config)
    subject = metafunc.config.getoption("--subject") or choose_default_subject(_python(metafunc.config))
    names = [axis for axis in ("moe_implementation", "implementation") if axis in metafunc.fixturenames]
    if not names:
        metafunc.parametrize("model_name", list(models), scope="module")
        return
    cases = [(n, v, m) for n, model in models.items() for v, m in _variants(names[0], subject, model)]
    metafunc.parametrize(
        ("model_name", names[0]),
        [(name, variant) for name, variant, _ in cases],
        ids=[f"{label}-{name}" for name, _, label in cases],
        scope="module",
    )


def _variants(kind: str, subject: str, model: HubModel) -> list[tuple[tuple[str, str], str]]:
    if kind == "moe_implementation":
        return [(("moe", v), v) for v in suite_tests.moe_variants(subject, model.checkpoint_format)]
    return [((axis, v), f"{axis}-{v}") for axis, v in suite_tests.other_variants(subject, model.checkpoint_format)]


def _chosen(config: pytest.Config) -> dict[str, HubModel]:
    only = config.getoption("--hub-model")
    return {name: HUB_TEST_CONFIGS.model(name) for name in only or HUB_TEST_CONFIGS}


def _python(config: pytest.Config) -> Path | None:
    return cast("Path | None", config.getoption("--subject-python"))


def _own_gpu(environ: Any) -> None:
    """Worker gw<i> sees the i-th visible GPU only: two models never share one while there are enough."""
    worker = environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw"):
        return
    from ci.suite_options import visible_gpus

    if gpus := visible_gpus(environ):
        environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker[2:]) % len(gpus)]


@pytest.fixture(scope="session")
def suite_options(pytestconfig: pytest.Config) -> SuiteOptions:
    """How the suite runs here."""
    option = pytestconfig.getoption
    return SuiteOptions(
        subject=cast("SubjectName", option("--subject") or choose_default_subject(option("--subject-python"))),
        subject_python=option("--subject-python"),
        subject_path=tuple(option("--subject-path")),
        device=option("--device") or default_device(),
        layers=option("--layers"),
        timeout=option("--subject-timeout"),
        log_dir=option("--subject-logs"),
        checkpoints=read_checkpoints(option("--checkpoints")),
    )


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
def chain(model_config: HubModel, suite_options: SuiteOptions, hub_test_cache_dir: Path) -> Iterator[Chain]:
    """The model's steps, each done once."""
    workdir = hub_test_cache_dir / model_config.name
    workdir.mkdir()
    with Chain(model_config, suite_options, settings.from_environ(os.environ), workdir) as steps:
        yield steps
    shutil.rmtree(workdir, ignore_errors=True)


@pytest.fixture(scope="module")
def truncated_hf_path(chain: Chain) -> Path:
    """The truncated Hugging Face checkpoint; skips what needs it when it could not be had."""
    return Path(_needed(chain, "test_download_and_truncate", lambda: chain.checkpoint().path))


@pytest.fixture(scope="module")
def fast_llm_path(chain: Chain, truncated_hf_path: Path) -> Path:
    """The checkpoint converted to Fast-LLM's format with default settings."""
    del truncated_hf_path
    return Path(_needed(chain, "test_conversion", lambda: chain.converted()[0]))


def _variant_path(variant: str) -> Any:
    @pytest.fixture(scope="module", name=f"fast_llm_path_{variant}")
    def path(fast_llm_path: Path) -> Path:
        return fast_llm_path

    path.__doc__ = f"The converted checkpoint for the variant {variant}: a setting of loading, the files are the same."
    return path


for _variant in [name for names in suite_tests.variant_names().values() for name in names]:
    globals()[f"fast_llm_path_{_variant}"] = _variant_path(_variant)


def _needed(chain: Chain, step: Step, work: Any) -> Any:
    try:
        return work()
    except StepFailedError as failed:
        pytest.skip(f"{failed.step}[{chain.model.name}] failed: {failed.error}")


@pytest.fixture
def record(request: pytest.FixtureRequest, chain: Chain, record_property: Any) -> Any:
    """`with record() as note:` runs a test's body; what `note` was given last, or the error, becomes its Evidence."""

    @contextmanager
    def recording(variant: str | None = None) -> Iterator[Callable[[Evidence], None]]:
        step = cast("Step", request.function.__name__)
        kept = [chain.evidence(step, variant)]
        kept[0] = replace(kept[0], reproduce=_reproduce(request))
        try:
            check_device(chain.options.device)
            yield lambda evidence: kept.append(replace(evidence, reproduce=kept[0].reproduce))
        except Exception as error:
            reason = error.error if isinstance(error, StepFailedError) else error
            if kept[-1].failure_class is None:
                kept.append(replace(kept[-1], failure_class=failure_class(error), diagnosis=str(reason)))
            if isinstance(reason, HubTestsError):
                raise pytest.fail.Exception(str(reason), pytrace=False) from None
            raise reason from None
        finally:
            record_property(*to_property(kept[-1]))

    return recording


def _reproduce(request: pytest.FixtureRequest) -> str:
    """The one line that runs this test again."""
    option = request.config.getoption
    words = ["pytest", f"tests/integration/test_hub_integration.py::{request.node.name}", "--run-extra-slow"]
    named = {name: option(name) for name in ("--subject", "--subject-python", "--device", "--layers", "--registry")}
    words += [f"{name}={value}" for name, value in named.items() if value is not None]
    words += [f"--subject-path={path}" for path in option("--subject-path")]
    words += ["--deep"] if option("--deep") else []
    return shlex.join(words)
