"""The verbs for a person at a machine: what they print, and what `run` hands to the main job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci import run as main_job
from ci.__main__ import main
from ci.doctor import Diagnosis, DoctorRequest
from ci.run_options import RunOptions
from ci.subjects.sandbox import ISOLATION_MODES
from tests.ci.report import samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ci.models import HubModel


def test_models_as_json_is_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert "mixtral" in {entry["name"] for entry in entries}


def test_a_registry_without_models_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.toml").touch()
    assert main(["models", "--registry", str(tmp_path / "models.toml")]) == 0
    assert capsys.readouterr().out == f"no models in {tmp_path / 'models.toml'}\n"


def test_models_for_people_names_the_gated_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "gated" in capsys.readouterr().out


def test_run_hands_every_option_on_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def run(models: Sequence[HubModel], options: RunOptions, *_: Any, report: Path, **__: Any) -> Any:
        given.extend([[model.name for model in models], options, report])
        return samples.passing()

    monkeypatch.setattr(main_job, "run", run)
    monkeypatch.chdir(tmp_path)
    words = ["run", "mixtral", "--subject", "reference", "--subject-python", "env/python", "--device", "cpu", "--json"]
    words += [
        "--subject-path",
        "a",
        "--subject-path",
        "b",
        "--layers",
        "auto",
        "--checkpoints",
        "c.json",
        "--deep",
        "-v",
    ]
    words += ["-v", "--timeout", "5", "--time-limit", "60", "--workers", "0", "--report", "there"]
    assert main(words) == 0
    assert given == [
        ["mixtral"],
        RunOptions(
            subject="reference",
            subject_python=tmp_path / "env/python",
            subject_path=(tmp_path / "a", tmp_path / "b"),
            device="cpu",
            layers="auto",
            checkpoints=tmp_path / "c.json",
            timeout=5,
            time_limit=60,
            workers=0,
            deep=True,
            verbose=True,
        ),
        tmp_path / "there",
    ]
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"


def test_doctor_answers_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main(["doctor", "--gpus", "0", "--json"])
    diagnosis = json.loads(capsys.readouterr().out)
    assert code in (0, 3)
    assert diagnosis["checks"]


@pytest.mark.parametrize(("words", "isolation"), [([], "auto"), *((["--isolation", m], m) for m in ISOLATION_MODES)])
def test_doctor_hands_on_how_much_a_sandbox_matters(
    words: list[str], isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DoctorRequest] = []

    def run_doctor(request: DoctorRequest, environ: Mapping[str, str]) -> Diagnosis:
        assert "PATH" in environ
        asked.append(request)
        return Diagnosis(fit=True, checks=())

    monkeypatch.setattr("ci.doctor.run_doctor", run_doctor)
    assert main(["doctor", *words]) == 0
    assert [request.isolation for request in asked] == [isolation]


def test_doctor_knows_no_other_isolation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--isolation", "some"]) == 2
    assert "--isolation" in capsys.readouterr().err
