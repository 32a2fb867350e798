import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ci import __main__ as cli
from ci.errors import InfrastructureError

ROOT = Path(cli.__file__).parent


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["modles"], "Did you mean 'models'"),
        (["fetch", "mixtrl"], "no model 'mixtrl'. Did you mean 'mixtral'? Known: smollm2"),
        (["fetch", "mixtral", "--layers", "two"], "--layers two: expected a number of layers"),
        (["run", "mixtral", "--subject", "fastllm"], "unknown subject 'fastllm'. Did you mean 'fast_llm'? "),
        (["run", "mixtral", "--device", "gpu"], "--device gpu: expected cpu or cuda"),
        (["run", "mixtral", "--timeout", "-1"], "Invalid value for '--timeout'"),
        (["run", "mixtral", "--time-limit", "0"], "Invalid value for '--time-limit'"),
        (["run", "mixtral", "--workers", "-3"], "Invalid value for '--workers'"),
        (["cache", "prune", "--max-size", "big"], "size 'big': expected a number with a unit"),
        (["models", "--registry", "none.toml"], "none.toml: cannot read the registry"),
    ],
)
def test_a_wrong_request_is_exit_code_2_and_one_line(
    argv: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    out, err = capfd.readouterr()
    assert says in " ".join(err.split())
    assert out == ""
    assert "Traceback" not in err


def raising(error: BaseException) -> Any:
    def load(*_: object, **__: object) -> None:
        raise error

    return load


@pytest.mark.parametrize("hostile", ["x\n::add-mask::hub-tests", "##[error]forged"])
def test_no_error_message_commands_the_runner(
    hostile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for error in (InfrastructureError(hostile), ValueError(hostile)):
        monkeypatch.setattr("ci.models.load_models", raising(error))
        cli.main(["models"])
    err = capsys.readouterr().err
    assert "add-mask" in err or "forged" in err
    assert "\n::" not in err
    assert "##[" not in err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InfrastructureError("the Hub is away: try later"), 3, "hub-tests: the Hub is away: try later\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oops"), 70, "this is a bug in hub-tests"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, says: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.models.load_models", raising(error))
    assert cli.main(["models"]) == code
    assert says in capfd.readouterr().err


def test_help_needs_nothing_heavy() -> None:
    heavy = "sorted({'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    code = f"import sys, ci.__main__ as m; m.main(['--help']); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(alias.name in ("environ", "getenv") for alias in node.names)
    return isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")


def test_the_environment_is_read_in_known_places() -> None:
    """Outside `main` only what starts a worker, and what runs in one."""
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if any(reads_environment(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    }
    starts_a_worker = {"subjects/open_subject.py", "subjects/hugging_face/worker.py", "subjects/image_root.py"}
    starts_a_worker |= {"consumers/open_consumer.py", "chat_templates/engines.py"}
    runs_in_one = {"subjects/forward.py", "subjects/rank_process.py", "subjects/hugging_face/subject.py"}
    assert readers == {"__main__.py", *starts_a_worker, *runs_in_one, "consumers/vllm_engine.py"}


@pytest.mark.parametrize(
    ("line", "reads"),
    [("from os import environ", True), ("import os; os.getenv('A')", True), ("call.obj['A']", False)],
)
def test_a_reader_of_the_environment_is_recognised(line: str, reads: bool) -> None:
    assert any(reads_environment(node) for node in ast.walk(ast.parse(line))) is reads


def test_every_verb_is_in_help_and_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in (*cli.ON_THIS_MACHINE, *cli.IN_A_WORKFLOW):
        assert f" {verb.__name__} " in out
        assert (verb.__doc__ or "").split(maxsplit=1)[0] in out


@pytest.mark.parametrize("words", [(), ("doctor",), ("run",), ("env", "build")])
def test_the_short_option_shows_the_same_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "-h"]) == 0
    short = capsys.readouterr().out
    assert cli.main([*words, "--help"]) == 0
    assert short == capsys.readouterr().out
