from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ci.errors import InfrastructureError, RequestError, UnsupportedError
from ci.subjects.base import NO_GRADIENTS, ConvertRequest, ConvertResult, ExportRequest, Preparable, Variant
from ci.subjects.failure import SubjectOutOfMemoryError
from ci.subjects.open_subject import open_subject
from ci.subjects.sandbox import choose_isolation
from ci.subjects.training import NO_TRAINING
from ci.subjects.worker_main import RenamingLoader, handle_request, is_taken, rename_module

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"


class OutOfMemoryError(RuntimeError):
    """By this name torch says so."""


class Fake:
    """A subject that raises, or answers plainly."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def describe(self) -> Any:
        raise self.error or AssertionError

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        return (Variant("moe", checkpoint, default=True),)

    def convert(self, request: ConvertRequest) -> ConvertResult:
        return ConvertResult(files=(request.target,), bytes_written=1, seconds=0.5)


def asked(subject: Any, method: str, **arguments: Any) -> dict[str, Any]:
    return handle_request(subject, {"id": 3, "method": method, "arguments": arguments})


def test_records_cross_as_plain_values() -> None:
    assert asked(Fake(), "variants", checkpoint="x") == {
        "id": 3,
        "result": [{"axis": "moe", "name": "x", "default": True, "needs": None}],
    }
    converted = asked(Fake(), "convert", source="a", target="b", checkpoint_format="llama")
    assert converted["result"] == {"files": ("b",), "bytes_written": 1, "seconds": 0.5}


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (UnsupportedError("gemma"), "unsupported"),
        (NotImplementedError("gemma"), "unsupported"),
        (SubjectOutOfMemoryError("on cuda:0"), "out_of_memory"),
        (OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RequestError("exists"), "request"),
        (InfrastructureError("disk"), "infrastructure"),
        (OSError(errno.ENOSPC, "No space left on device"), "infrastructure"),
        (FileNotFoundError(errno.ENOENT, "x"), "error"),
        (KeyError("attention_factor"), "error"),
        (SystemExit(3), "error"),
        (RecursionError("deep\nand deeper"), "error"),
    ],
)
def test_whatever_is_raised_is_a_failure_of_one_line(
    error: BaseException, failure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = asked(Fake(error), "describe")
    assert (answered["id"], answered["failure"]) == (3, failure)
    assert "\n" not in answered["message"]
    assert str(error).splitlines()[:1] == [] or str(error).splitlines()[0] in answered["message"]
    assert "Traceback" in capsys.readouterr().err


def test_a_method_that_is_none_is_an_error() -> None:
    assert asked(Fake(), "fly")["failure"] == "error"


def test_an_optional_method_that_is_lacking_is_no_refusal_of_the_model() -> None:
    lacking = asked(Fake(), "gradients", checkpoint="a", inputs="b", output="c", checkpoint_format="llama")
    assert (lacking["failure"], lacking["message"]) == ("not_offered", NO_GRADIENTS)
    lacking = asked(Fake(), "train", checkpoint="a", inputs="b", output="c", checkpoint_format="llama")
    assert (lacking["failure"], lacking["message"]) == ("not_offered", NO_TRAINING)


def test_an_interrupt_is_no_answer() -> None:
    with pytest.raises(KeyboardInterrupt):
        asked(Fake(KeyboardInterrupt()), "describe")


def test_who_can_prepare_itself_does_and_others_have_nothing_to_do() -> None:
    class Heavy(Fake):
        prepared = 0

        def prepare(self) -> None:
            self.prepared += 1

    heavy = Heavy()
    assert isinstance(heavy, Preparable)
    assert not isinstance(Fake(), Preparable)
    assert asked(heavy, "prepare") == {"id": 3, "result": True}
    assert heavy.prepared == 1
    assert asked(Fake(), "prepare") == {"id": 3, "result": True}


def test_a_device_that_cannot_be_made_ready_is_left_to_the_first_trace() -> None:
    class OnDevice(Fake):
        asked = ""

        def prepare_device(self, device: str) -> None:
            self.asked = device
            raise MemoryError(device)

    subject = OnDevice()
    assert asked(subject, "prepare_device", device="cuda") == {"id": 3, "result": True}
    assert subject.asked == "cuda"
    assert asked(Fake(), "prepare_device", device="cuda") == {"id": 3, "result": True}


OWN_CI = {
    "ci/__init__.py": "FLAVOR = 'theirs'\n",
    "ci/errors.py": "class TheirError(Exception): ...\n",
    "trainer/__init__.py": "import ci\nimport ci.errors\nfrom ci.errors import TheirError\n\nFLAVOR = ci.FLAVOR\n",
    "trainer_adapter.py": """
from dataclasses import replace

from hub_tests.subject import SubjectOffer
from toy_adapter import ToySubject


class Subject(ToySubject):
    offer = replace(ToySubject.offer, name="trainer")

    def describe(self):
        import ci
        import trainer

        return replace(super().describe(), subject="trainer", version=f"{trainer.FLAVOR} {ci.FLAVOR}")
""",
}


def write_trainer(folder: Path, files: dict[str, str] = OWN_CI) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("isolation", ["none", "auto"])
def test_a_package_ci_of_the_subjects_own_keeps_its_name(tmp_path: Path, isolation: Any) -> None:
    """Ours is loaded by another name, with what an adapter imports of it."""
    path = (write_trainer(tmp_path / "checkout"), EXAMPLES)
    (tmp_path / "trainer.toml").write_text(
        'adapter = "trainer_adapter:Subject"\nname = "trainer"\npackage = "trainer"\nformats = ["llama"]\n'
        "converts = false\nexports = false\ngradients = false\n"
    )
    tmp_path.chmod(0o755)
    with open_subject(
        str(tmp_path / "trainer.toml"), python=Path(sys.executable), path=path, isolation=choose_isolation(isolation)
    ) as subject:
        described = subject.describe()
        assert (described.subject, described.version) == ("trainer", "theirs theirs")
        with pytest.raises(UnsupportedError, match="toy: it does not write "):  # an error class of ours crosses
            subject.export(ExportRequest("x", "y", "llama"))


def test_the_reference_runs_beside_another_package_ci(tmp_path: Path) -> None:
    """As in an environment where some distribution has installed a package of that name."""
    site = write_trainer(tmp_path / "site")
    command = [sys.executable, "-P", str(ROOT / "ci/subjects/worker_main.py"), "reference", "0", "1"]
    request = '{"id": 1, "method": "describe", "arguments": {}}\n'
    environ = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, input=request, env=environ, capture_output=True, text=True, check=False)
    assert '"result": {"subject": "reference"' in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        ({}, False),
        ({"ci/build.sh": ""}, False),
        ({"ci/steps.py": ""}, True),
        ({"ci/__init__.py": ""}, True),
        ({"ci.py": ""}, True),
    ],
)
def test_what_takes_the_name(
    files: dict[str, str], taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(write_trainer(tmp_path, files))])
    assert is_taken(ROOT / "ci") == taken
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    assert not is_taken(ROOT / "ci")


def test_every_module_of_ours_can_be_renamed() -> None:
    """`import ci.x` binds the name `ci`: a worker could not give it another one."""
    for file in (*(ROOT / "ci").rglob("*.py"), *(ROOT / "hub_tests").rglob("*.py")):
        RenamingLoader(file.stem, str(file)).get_code(file.stem)


def test_an_import_that_cannot_be_renamed_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import ci.errors\n")
    with pytest.raises(ImportError, match=r"import ci\.errors: write it as"):
        RenamingLoader("x", str(tmp_path / "x.py")).get_code("x")
    assert rename_module("ci.errors") == "hub_tests_ci.errors"
    assert rename_module("cicada") == "cicada"
