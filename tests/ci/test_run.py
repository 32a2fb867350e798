"""The main job through its own command line, against the Hub stand-in: green, red with its layer, neutral, crashed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ci import __main__ as cli
from ci.report.result_files import EXIT_CODE, RUNNING
from tests.standin.models import repository
from tests.standin.recipes import CONFIGS, RECIPES, TINY_REGISTRY
from tests.standin.server import HubServer

ROOT = Path(__file__).parents[2]
REFERENCE = ("--subject", "reference")
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("run")]


def make_command(
    root: Path,
    tmp_path: Path,
    endpoint: str,
    *more: str,
    subject: Sequence[str] = REFERENCE,
    registered: str = TINY_REGISTRY,
    device: str = "cpu",
) -> tuple[list[str], dict[str, str]]:
    """Return the command `hub-tests run tiny` of the package at `root`, and its environment."""
    registry = tmp_path / "models.toml"
    registry.write_text(registered)
    environ = {**os.environ, "HF_ENDPOINT": endpoint, "HUB_TESTS_CACHE": str(tmp_path / "store"), "COLUMNS": "140"}
    environ |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = ["-m", "ci", "run", "tiny", "--registry", str(registry), "--report", str(tmp_path / "out"), *more]
    return [sys.executable, *words, *subject, "--device", device], environ


def run(
    root: Path, tmp_path: Path, endpoint: str, *more: str, **choices: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run `make_command`; return the ended process and the results that it wrote."""
    command, environ = make_command(root, tmp_path, endpoint, *more, **choices)
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    written = tmp_path / "out" / "report.json"
    return done, json.loads(written.read_bytes()) if written.exists() else {}


def fake_interpreter(tmp_path: Path, code: str) -> Path:
    """Write a program that takes the place of a subject's interpreter."""
    program = tmp_path / "interpreter" / "python"
    program.parent.mkdir(mode=0o755)
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    return program


def read_outcomes(results: dict[str, Any]) -> dict[str, str]:
    return {case["name"]: case["outcome"] for entry in results["entries"] for case in entry["cases"]}


def test_a_sound_conversion_is_green(hub: HubServer, tmp_path: Path) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    done, results = run(ROOT, tmp_path, hub.endpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(read_outcomes(results).values()) == {"passed"}
    assert len(read_outcomes(results)) == 7
    assert (tmp_path / "out" / EXIT_CODE).read_text() == "0\n"
    assert (tmp_path / "out" / "report.md").read_text().startswith("## ")
    pins = str(tmp_path / "out" / "checkpoints.json")
    again, results = run(ROOT, tmp_path, "http://127.0.0.1:9", "--checkpoints", pins, "--json")
    assert again.returncode == 0, "pinned and stored, a run needs no Hub: " + again.stdout + again.stderr
    assert json.loads(again.stdout) == results, "stdout is the answer alone"
    assert "7 passed" in again.stderr


def copy_with_swapped_gate_and_up(tmp_path: Path) -> Path:
    """Copy the project, with gate and up swapped in one line of the reference's converter."""
    root = tmp_path / "broken"
    shutil.copytree(ROOT / "ci", root / "ci")
    shutil.copytree(ROOT / "tests" / "integration", root / "tests" / "integration")
    shutil.copy(ROOT / "pyproject.toml", root)
    source = root / "ci" / "subjects" / "reference" / "convert.py"
    text = source.read_text()
    assert text.count(GATE_THEN_UP) == 1, "the line that orders gate and up moved: point this test at it"
    source.write_text(text.replace(GATE_THEN_UP, UP_THEN_GATE))
    return root


def test_an_installed_suite_runs_as_that_of_a_checkout(hub: HubServer, tmp_path: Path) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "ci", site / "ci")
    shutil.copytree(ROOT / "tests" / "integration", site / "ci" / "_suite")
    done, results = run(site, tmp_path, hub.endpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(read_outcomes(results).values()) == {"passed"}
    assert "Warning" not in done.stderr


GATE_THEN_UP = 'gate_up = (f"{hugging_face}.gate_proj", f"{hugging_face}.up_proj")'
UP_THEN_GATE = 'gate_up = (f"{hugging_face}.up_proj", f"{hugging_face}.gate_proj")'


def test_gate_and_up_swapped_in_the_converter_is_red_and_names_the_layer(hub: HubServer, tmp_path: Path) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    done, results = run(copy_with_swapped_gate_and_up(tmp_path), tmp_path, hub.endpoint)
    assert done.returncode == 1, done.stdout + done.stderr
    assert read_outcomes(results)["test_forward_equivalence[tiny]"] == "failed"
    forward = next(c for c in results["entries"][0]["cases"] if c["name"] == "test_forward_equivalence[tiny]")
    assert forward["failure_class"] == "numeric_mismatch"
    assert forward["evidence"]["worst"]["tensor"].startswith("decoder.")
    assert "layer 0" in forward["evidence"]["diagnosis"]
    assert "mlp" in forward["evidence"]["diagnosis"].lower()
    again = f"hub-tests run tiny --layers 2 --subject reference --device cpu --registry={tmp_path / 'models.toml'}"
    assert again in "".join(done.stdout.split("\n"))
    first = done.stdout[done.stdout.index("Failed") :].splitlines()[0]
    assert "layer 0" in first


def test_a_hub_that_is_away_is_neutral_and_blames_nobody(tmp_path: Path) -> None:
    done, results = run(ROOT, tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 3, done.stdout + done.stderr
    assert results["verdict"] == "neutral"
    assert read_outcomes(results)["test_conversion[tiny]"] == "consequence"


NO_GPU = "torch sees no GPU here; `hub-tests doctor` says why"


def test_a_gpu_that_is_not_there_ends_the_run_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done, results = run(ROOT, tmp_path, "http://127.0.0.1:9", device="cuda")
    assert done.returncode == 3, done.stdout + done.stderr
    assert results == {}
    assert done.stderr == f"hub-tests: --device cuda: {NO_GPU}\n"
    assert not (tmp_path / "store").exists()


def test_a_gpu_that_is_not_there_is_neutral_and_blames_nobody(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command, environ = make_command(ROOT, tmp_path, hub.endpoint)
    fetch = [*command[: command.index("run")], "fetch", "tiny", "--registry", str(tmp_path / "models.toml"), "--json"]
    pins = tmp_path / "pins.json"
    pins.write_bytes(subprocess.run(fetch, env=environ, cwd=ROOT, capture_output=True, check=True).stdout)
    done, results = run(ROOT, tmp_path, hub.endpoint, "--checkpoints", str(pins), device="cuda")
    assert done.returncode == 3, done.stdout + done.stderr
    assert results["verdict"] == "neutral"
    assert NO_GPU in " ".join(done.stdout.split())


def test_a_suite_that_runs_out_of_time_is_red_and_says_so(hub: HubServer, tmp_path: Path) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    sleeper = fake_interpreter(
        tmp_path, MISBEHAVIOURS["hangs"][0]
    )  # so that the time is over in a test and not in an import
    done, results = run(ROOT, tmp_path, hub.endpoint, "--time-limit", "12", "--subject-python", str(sleeper))
    assert done.returncode == 1, done.stdout + done.stderr
    assert read_outcomes(results)["test_hub_model_conversion[tiny]"] == "missing"
    assert {cause["failure_class"] for cause in results["causes"]} == {"timeout"}
    assert "the suite ran out of time: time limit of 12 s" in " ".join(done.stdout.split())
    assert results["verdict"] == "failed"


def test_a_run_that_is_terminated_with_its_whole_group_keeps_what_it_has_found(hub: HubServer, tmp_path: Path) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    command, environ = make_command(ROOT, tmp_path, hub.endpoint)
    with subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True, stderr=subprocess.PIPE) as job:
        running, deadline = tmp_path / "out" / RUNNING, time.monotonic() + 300
        while not (running.exists() and "test_forward_equivalence" in running.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGTERM)
        job.communicate(timeout=300)
    results = json.loads((tmp_path / "out" / "report.json").read_bytes())
    ended = read_outcomes(results)
    assert ended["test_conversion[tiny]"] == "passed"
    assert ended["test_hub_model_conversion[tiny]"] == "missing"
    assert job.returncode == 130
    assert (results["verdict"], {cause["failure_class"] for cause in results["causes"]}) == ("neutral", {"interrupted"})
    assert (tmp_path / "out" / "report.md").read_text().startswith("## ⚠️ Interrupted: no answer for 1 of 1 model")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--subject-python", "gone/python"], "gone/python: not an executable file; expected an interpreter"),
        (["--subject", "fast_llm"], "--subject fast_llm: cannot be imported here; name an interpreter that has it"),
        (["--subject-path", "."], "--subject-path needs --subject-python"),
        (["--subject-python", sys.executable, "--subject-path", "gone"], "gone: not a directory"),
        (
            ["--subject", "reference", "--subject-python", sys.executable, "--subject-path", "old"],
            "/old: its ci/ has no worker program (ci/subjects/worker_main.py), so its code cannot be run",
        ),
        (
            ["--subject", "reference", "--checkpoints", "gone.json"],
            "gone.json: expected what `hub-tests fetch --json` printed",
        ),
        (["--subject", "reference", "--layers", "99"], "99 layers asked for, the model has 5"),
        (["--subject", "reference", "--report", "models.toml/out"], "models.toml/out: cannot be written"),
    ],
)
def test_a_run_that_was_asked_for_wrongly_ends_before_it_begins(
    words: list[str],
    says: str,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"))
    (tmp_path / "models.toml").write_text(TINY_REGISTRY)
    (tmp_path / "old/ci").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HUB_TESTS_CACHE", str(tmp_path / "store"))
    assert cli.main(["run", "tiny", "--registry", "models.toml", "--device", "cpu", *words]) == 2
    out, err = capfd.readouterr()
    assert says in err
    heading = "hub-tests: reference "  # the first line, where the request was good enough to begin
    said = [line for index, line in enumerate(err.splitlines()) if index or not line.startswith(heading)]
    assert len(said) == 1
    assert "passed" not in out


MISBEHAVIOURS = {
    "dies": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", "the worker was killed by SIGSEGV"),
    "hangs": ("import time; time.sleep(600)", "timeout", "convert took longer than 2 s, killed"),
    "answers nonsense": ("import os, sys; os.write(int(sys.argv[-1]), b'{]\\n')", "crash", "Invalid JSON"),
}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_a_subject_that_misbehaves_is_red_in_one_line(kind: str, hub: HubServer, tmp_path: Path) -> None:
    code, failure, says = MISBEHAVIOURS[kind]
    hub.add("stand-in/llama", repository("stand-in/llama"))
    python, timeout = str(fake_interpreter(tmp_path, code)), "2" if kind == "hangs" else "300"
    done, results = run(ROOT, tmp_path, hub.endpoint, "--subject-python", python, "--timeout", timeout)
    assert done.returncode == 1, done.stdout + done.stderr
    conversion = next(c for c in results["entries"][0]["cases"] if c["name"] == "test_conversion[tiny]")
    assert (conversion["outcome"], conversion["failure_class"]) == ("failed", failure)
    assert says in conversion["headline"]
    assert read_outcomes(results)["test_forward_equivalence[tiny]"] == "consequence"


ADAPTER = """
from dataclasses import replace
VARIANTS = (Variant("attention", "eager"), Variant("attention", "sdpa", default=True), Variant("attention", "folded"))


class Varied(ToySubject):
    offer = replace(
        ToySubject.offer, name="varied", variants=VARIANTS, conditional_needs={"attention=folded": ("a fold",)}
    )

    def variants(self, checkpoint):
        return (*VARIANTS[:2], replace(VARIANTS[2], needs="a fold"))

    def load(self, request):
        model = super().load(request)
        model.set_attn_implementation(request.variant.get("attention", "sdpa"))
        return model
"""
OBSERVED = 'ran={"attention": request.variant.get("attention", "sdpa")}'


def write_adapter(tmp_path: Path) -> Path:
    """Write the toy trainer with two attentions, and a third one that lacks something here."""
    toy = (ROOT / "examples/toy_adapter.py").read_text()
    assert toy.count("ran={}") == toy.count("if request.variant:") == 1
    adapter = tmp_path / "varied_adapter.py"
    adapter.write_text(toy.replace("ran={}", OBSERVED).replace("if request.variant:", "if False:") + ADAPTER)
    return adapter


def test_an_adapter_of_others_is_tested_in_each_of_its_variants(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known by its file alone: nothing of hub-tests finds it by the name that its offer has."""
    monkeypatch.delenv("CI", raising=False)  # there a skip of the inner run would be a failure
    hub.add("stand-in/llama", repository("stand-in/llama"))
    done, results = run(ROOT, tmp_path, hub.endpoint, subject=("--subject", f"{write_adapter(tmp_path)}:Varied"))
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = read_outcomes(results)
    assert {name: outcome for name, outcome in outcomes.items() if "attention" in name} == {
        "test_implementation[attention-eager-tiny]": "passed",
        "test_implementation[attention-sdpa-tiny]": "passed",
        "test_implementation[attention-folded-tiny]": "did_not_run",
    }
    assert results["verdict"] == "passed"


def test_a_gated_model_without_a_token_blames_nobody(hub: HubServer, tmp_path: Path) -> None:
    hub.add("stand-in/llama", repository("stand-in/llama"), gated=True)
    done, results = run(ROOT, tmp_path, hub.endpoint)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "set HF_TOKEN" in done.stdout
    assert results["verdict"] == "neutral"


def test_a_model_with_code_of_its_own_is_refused_without_a_request_or_a_prompt(tmp_path: Path) -> None:
    with_code = TINY_REGISTRY.replace("num_layers", "trust_remote_code = true\nnum_layers")
    done, results = run(ROOT, tmp_path, "http://127.0.0.1:9", registered=with_code)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "[tiny] trust_remote_code: hub-tests does not run code that comes with a model" in done.stdout
    assert results["verdict"] == "neutral"
    first = results["entries"][0]["cases"][0]
    assert (first["name"], first["failure_class"]) == ("test_download_and_truncate[tiny]", "remote_code")


def registered(model_id: str, checkpoint_format: str) -> str:
    return TINY_REGISTRY.replace("stand-in/llama", model_id).replace('"llama"', f'"{checkpoint_format}"')


@pytest.mark.parametrize(
    ("model_id", "checkpoint_format"),
    [
        ("stand-in/llama-yarn", "llama"),
        ("mistralai/Mistral-7B-v0.1", "mistral"),
        ("Qwen/Qwen2.5-0.5B", "qwen2"),
        ("stand-in/mixtral-head-dim", "mixtral"),
    ],
)
def test_fast_llm_is_as_right_as_hugging_face(
    model_id: str, checkpoint_format: str, hub: HubServer, tmp_path: Path, fast_llm_words: tuple[str, ...]
) -> None:
    hub.add(model_id, repository(model_id))
    text = registered(model_id, checkpoint_format)
    done, results = run(ROOT, tmp_path, hub.endpoint, subject=fast_llm_words, registered=text)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = [case["evidence"]["figures"] for case in results["entries"][0]["cases"]]
    ratios = [
        known[f"{dtype}.ratio"] for known in figures for dtype in ("float32", "bfloat16") if f"{dtype}.ratio" in known
    ]
    assert len(ratios) >= 6
    assert max(ratios) < 2, "near the reference's own noise, not merely below ten times it"


PRODUCTION = {
    "mistralai/Mixtral-8x7B-v0.1": ("mixtral", "`head_size`.*NoneType"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llama", "HF config has unknown key 'rope_interleaved'"),
}
"""Configs as published that Fast-LLM 0.4.0 (7d61a1b) refuses, and by what."""


@pytest.mark.parametrize("model_id", PRODUCTION)
def test_what_fast_llm_refuses_is_its_failure_and_named(
    model_id: str, hub: HubServer, tmp_path: Path, fast_llm_words: tuple[str, ...]
) -> None:
    checkpoint_format, says = PRODUCTION[model_id]
    if model_id in RECIPES:
        hub.add(model_id, repository(model_id))
    else:
        hub.add(model_id, copy_with_published_config(tmp_path / "model", model_id))
    text = registered(model_id, checkpoint_format)
    done, results = run(ROOT, tmp_path, hub.endpoint, subject=fast_llm_words, registered=text)
    assert done.returncode == 1, done.stdout + done.stderr
    conversion = next(c for c in results["entries"][0]["cases"] if c["name"] == "test_conversion[tiny]")
    assert conversion["outcome"] == "failed"
    assert re.search(says, conversion["headline"]), conversion["headline"]
    assert set(read_outcomes(results).values()) == {"passed", "failed", "consequence"}


def copy_with_published_config(directory: Path, model_id: str) -> Path:
    """Copy a small llama, and add the keys of the published config.json that it lacks."""
    shutil.copytree(repository("stand-in/llama-tied"), directory)
    published = json.loads((CONFIGS / f"{model_id.split('/')[1]}.json").read_text())
    small = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**published, **small}))
    return directory
