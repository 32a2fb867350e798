"""Every command line of the specification, as it is written, and the errors that stand in its way."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.long
CONFTEST = """
from ci.models import HUB_TEST_CONFIGS

class ModelCheckpointFormat:
    name = "llama"

class GPTModelConfig:
    model_name = "gpt"

HUB_TEST_CONFIGS["model_name"] = {
    "model_id": "org/model-name",  # HuggingFace Hub ID
    "checkpoint_format": ModelCheckpointFormat,  # Format class
    "model_config": GPTModelConfig,  # Model config class
    "num_layers_to_keep": 2,  # Number of layers after truncation
    "test_params": {
        "batch_size": 2,
        "sequence_length": 32,
        "compare_factor": 1.0,  # Increase for models with higher numerical error
    },
}
"""


def run_pytest(root: Path, line: str) -> tuple[int, str]:
    """Run a command line of the specification at `root`; return exit code and output."""
    words = [sys.executable, "-m", *shlex.split(line), "-p", "no:cacheprovider"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(words, cwd=root, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "included", "excluded"),
    [
        ("pytest tests/integration --run-extra-slow", "test_forward_equivalence[mixtral]", "test_gradients"),
        ("pytest tests/integration --run-extra-slow -v -s", "test_conversion[smollm2]", "test_gradients"),
        ("pytest tests/integration --run-extra-slow --tb=short", "test_conversion[smollm2]", "test_gradients"),
        ("pytest tests/integration -k mixtral --run-extra-slow", "test_conversion[mixtral]", "smollm2"),
        (
            "pytest tests/integration/test_hub_integration.py::test_hub_model_conversion --run-extra-slow",
            "test_hub_model_conversion[mixtral]",
            "test_conversion[",
        ),
        (
            'pytest tests/integration -k "test_moe_implementation or test_implementation" --run-extra-slow',
            "test_moe_implementation[looped-mixtral]",
            "test_forward_equivalence",
        ),
        ("pytest tests/integration --run-extra-slow --deep", "test_gradients[mixtral]", "NOTSET"),
        ("pytest tests/integration -k mixtral --run-extra-slow", "test_conversion[mixtral]", "sliced-mixtral"),
        (
            "pytest tests/integration --hub-model sliced-mixtral --run-extra-slow",
            "test_conversion[sliced-mixtral]",
            "test_conversion[mixtral]",
        ),
    ],
)
def test_a_command_line_chooses_what_the_specification_says(line: str, included: str, excluded: str) -> None:
    code, output = run_pytest(ROOT, f"{line} --collect-only -q --subject reference")
    assert code == 0, output
    assert included in output
    assert excluded not in output


LOGGERS_MADE_MEANWHILE = """
import itertools
import logging

numbers = itertools.count()

class MakesLoggers(logging.Logger):
    @property
    def propagate(self):
        logging.getLogger(f"made.{next(numbers)}")
        return True

    @propagate.setter
    def propagate(self, value):
        pass

def setup_module():
    logging.Logger.manager.loggerDict["makes"] = MakesLoggers("makes")

def teardown_module():
    del logging.Logger.manager.loggerDict["makes"]

def test_nothing():
    logging.getLogger("other").warning("a logger's message")
    raise SystemError("the only failure")
"""
"""Another logger is made whenever pytest looks at this one, as a thread might do at that moment."""


@pytest.mark.parametrize(
    ("option", "ends"), [("--run-extra-slow", "1 failed in"), ("", "dictionary changed size during iteration")]
)
def test_a_thread_that_makes_loggers_fails_no_test(tmp_path: Path, option: str, ends: str) -> None:
    """Hugging Face's side runs in a thread, where importing a model makes loggers."""
    (tmp_path / "test_loggers.py").write_text(LOGGERS_MADE_MEANWHILE)
    _, output = run_pytest(tmp_path, f"pytest -q -p tests.integration.conftest --subject reference {option}")
    assert ends in output
    assert not option or ("the only failure" in output and "a logger's message" in output)


def test_without_the_option_everything_is_skipped_with_the_reason() -> None:
    code, output = run_pytest(ROOT, "pytest tests/integration -rs")
    assert code == 0, output
    assert "run with --run-extra-slow" in output
    assert " passed" not in output


def test_a_model_added_in_python_as_the_specification_writes_it_is_tested(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "integration", tmp_path / "tests" / "integration")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    code, output = run_pytest(tmp_path, "pytest tests/integration -k model_name --collect-only -q --subject reference")
    assert code == 0, output
    assert "test_forward_equivalence[model_name]" in output
    assert "[mixtral]" not in output


def test_each_variant_of_another_adapter_has_its_fixture(tmp_path: Path) -> None:
    """Such a fixture is set up where a test of somebody's own asks for it, by the variant's name."""
    shutil.copytree(ROOT / "tests" / "integration", tmp_path / "tests" / "integration")
    toy = (ROOT / "examples/toy_adapter.py").read_text()
    (tmp_path / "own_adapter.py").write_text(toy.replace('("llama",), ())', '("llama",), (Variant("moe", "folded"),))'))
    own = tmp_path / "tests/integration/test_own.py"
    own.write_text("def test_own(model_name, fast_llm_path_folded, fast_llm_path_looped): ...\n")
    line = "pytest tests/integration/test_own.py --hub-model smollm2 --setup-plan --subject"
    code, output = run_pytest(tmp_path, f"{line} {tmp_path}/own_adapter.py:ToySubject")
    assert code == 0, output
    assert "SETUP    M fast_llm_path_folded" in output
    code, output = run_pytest(tmp_path, f"{line} reference")
    assert "fixture 'fast_llm_path_folded' not found" in output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--registry bad.toml", "bad.toml: [a]: unknown key 'model_idd'. Did you mean 'model_id'?"),
        ("--hub-model mixtrl", "no model 'mixtrl'. Did you mean 'mixtral'?"),
        ("--layers 0", "expected a number of layers, 1 or more, or auto"),
        ("--checkpoints none.json", "--checkpoints none.json: expected what `hub-tests fetch --json` printed"),
        ("--subject megatron", "unknown subject 'megatron'"),
    ],
)
def test_a_wrong_request_is_one_line_and_no_traceback(tmp_path: Path, options: str, says: str) -> None:
    shutil.copytree(ROOT / "tests" / "integration", tmp_path / "tests" / "integration")
    (tmp_path / "bad.toml").write_text('[a]\nmodel_idd = "o/n"\n')
    code, output = run_pytest(tmp_path, f"pytest tests/integration --run-extra-slow {options}")
    assert code == 4, output
    assert says in output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
