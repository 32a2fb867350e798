"""One call to a worker: what it may not see, and impostors that die, hang and lie."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError
from ci.subjects import worker_process
from tests.ci.subjects.impostor import call_refused, has_ended, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_secrets_stay_here(impostor: Callable[..., Any]) -> None:
    environ = {**os.environ, "HF_TOKEN": "hf_secret", "GITHUB_TOKEN": "ghs_secret", "PYTHONPATH": "/ours", "OTHER": "x"}
    code = "say(result={**DESCRIPTION, 'libraries': dict(os.environ)})"
    with impostor(code, environ={**environ, "CUDA_VISIBLE_DEVICES": "1"}) as subject:
        seen = subject.describe().libraries
    assert "secret" not in str(seen)
    assert {"OTHER", "PYTHONPATH", "HF_TOKEN"}.isdisjoint(seen)
    assert seen["CUDA_VISIBLE_DEVICES"] == "1"
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert seen["HOME"] != environ.get("HOME")


def test_noise_on_stdout_is_no_answer(impostor: Callable[..., Any]) -> None:
    with impostor("""print('{"id": 1, "result": 2}', flush=True); say(result=DESCRIPTION)""") as subject:
        assert subject.describe().version == "1"


@pytest.mark.parametrize(
    ("code", "failure", "says"),
    [
        ("print('about to fall'); ctypes.string_at(0)", "crash", "SIGSEGV.*"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crash", "SIGKILL, probably out of memory"),
        ("print('bye'); sys.exit(7)", "crash", "code 7.*bye"),
        ("subprocess.Popen(['sleep', '60'], pass_fds=[write]); sys.exit(7)", "crash", "code 7"),
        ("os.close(write); time.sleep(600)", "crash", "closed its pipe"),
        ("print('thinking', flush=True); time.sleep(600)", "timeout", "describe took longer than 1.*thinking"),
        ("os.write(write, b'{'); time.sleep(600)", "timeout", "took longer"),
        ("os.write(write, b'hello\\n')", "protocol", "response to describe"),
        ("os.write(write, b'{}\\n')", "protocol", "id"),
        ("say(result=DESCRIPTION, extra=1)", "protocol", "extra"),
        ("request['id'] += 1; say(result=DESCRIPTION)", "protocol", "answers request 2, not 1"),
        ("os.write(write, b'{}\\n{}\\n'); time.sleep(600)", "protocol", "several"),
        ("say(result={**DESCRIPTION, 'formats': 3})", "protocol", "formats"),
        ("say(result=None)", "protocol", "response to describe"),
        ("say(result='x' * (9 << 20))", "protocol", "longer than"),
        ("say(failure='flu', message='x')", "protocol", "failure"),
        ("say(failure='unsupported', message='no\\n\\x1b[31mgemma')", "unsupported", r"no \[31mgemma"),
        ("say(failure='error', message='')", "error", "without a message"),
        ("say(failure='out_of_memory', message='tried to allocate 2 TiB')", "out_of_memory", "2 TiB"),
    ],
)
def test_each_misbehaviour_is_one_line_of_its_class(
    code: str, failure: str, says: str, impostor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "os.close" not in code:
        monkeypatch.setattr(worker_process, "EXIT_SECONDS", 120.0)
    for timeout in (1.0, 10.0, 100.0) if failure == "timeout" else (300.0,):  # longer where it did not come to speak
        kind, message = call_refused(impostor(code, timeout=timeout))
        assert kind == failure
        if re.search(says, message):
            return
    pytest.fail(message)


def test_the_next_call_after_a_death_starts_afresh(impostor: Callable[..., Any], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"""
        if not os.path.exists({str(marker)!r}):
            open({str(marker)!r}, "w").close()
            os.abort()
        say(result=DESCRIPTION)
    """
    with impostor(code) as subject:
        with pytest.raises(SubjectError, match="SIGABRT"):
            subject.describe()
        assert subject.describe().version == "1"


def test_nothing_that_it_started_survives(impostor: Callable[..., Any]) -> None:
    code = """
        child = subprocess.Popen(["sleep", "600"])
        say(result={**DESCRIPTION, "version": str(child.pid)})
        time.sleep(600)
    """
    with impostor(code) as subject:
        child = subject.describe().version
        assert not has_ended(child)
    wait_until(lambda: has_ended(child))
