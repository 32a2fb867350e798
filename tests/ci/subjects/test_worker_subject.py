"""The judge's side against real processes: the reference subject, and impostors that die, hang and lie."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.cold_repeat import has_compile_cache
from ci.errors import HubTestsError, InfrastructureError, RequestError, SubjectError
from ci.phases import PhaseClock
from ci.subjects import exchange, exchange_tree, worker_main
from ci.subjects.base import ConvertRequest, ExportRequest, TraceRequest
from ci.subjects.compile_cache import CompileCache
from ci.subjects.open_subject import open_subject
from ci.subjects.process_tree import ProcessTree
from ci.subjects.sandbox import NO_SANDBOX, detect_isolation
from ci.subjects.trace_files import TraceReader
from ci.subjects.worker_process import WorkerProcess
from tests.ci.subjects.impostor import DESCRIPTION, call_refused, has_ended, open_impostor, wait_until
from tests.ci.subjects.tiny import relative_error, save_inputs, save_model, trace_request

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_reference_in_a_worker_answers_as_in_process(tmp_path: Path) -> None:
    source, inputs = save_model("mixtral", tmp_path / "source"), save_inputs(tmp_path / "inputs.safetensors")
    log = tmp_path / "logs" / "worker.log"
    with open_subject("reference") as here, open_subject("reference", python=Path(sys.executable), log=log) as there:
        assert there.describe() == here.describe()
        for subject, name in ((here, "here"), (there, "there")):
            converted = tmp_path / f"{name}.fast_llm"
            result = subject.convert(ConvertRequest(str(source), str(converted), "mixtral"))
            assert sum((converted / file).stat().st_size for file in result.files) == result.bytes_written
            subject.trace(trace_request(converted, inputs, tmp_path / name, capture="all"))
            subject.export(ExportRequest(str(converted), str(tmp_path / f"{name}.back"), "mixtral"))
        assert there.variants(str(converted)) == here.variants(str(converted))
        with pytest.raises(RequestError, match="exists"):
            there.convert(ConvertRequest(str(source), str(converted), "mixtral"))
        with pytest.raises(SubjectError, match="gemma"):
            there.convert(ConvertRequest(str(source), str(tmp_path / "other"), "gemma"))
    ours, theirs = TraceReader(tmp_path / "here"), TraceReader(tmp_path / "there")
    assert max(relative_error(theirs.tensor(name), ours.tensor(name)) for name in ours) < 1e-6
    assert "Traceback" in log.read_text()


def test_only_our_package_is_importable_there() -> None:
    code = f"""
        import importlib.util, runpy
        runpy.run_path({worker_main.__file__!r})["expose_package"]()
        import ci.subjects.base, ci.records, ci.subjects.failure, ci.subjects.registry
        assert importlib.util.find_spec("pydantic") is None
        assert importlib.util.find_spec("tests") is None
    """
    bare = [sys.executable, "-I", "-S", "-P", "-c", textwrap.dedent(code)]
    subprocess.run(bare, check=True, cwd="/", env={})


def test_the_subjects_path_reaches_it(impostor: Callable[..., Any], tmp_path: Path) -> None:
    with impostor("say(result={**DESCRIPTION, 'version': os.environ['PYTHONPATH']})", path=(tmp_path,)) as subject:
        assert subject.describe().version == str(tmp_path)
    with pytest.raises(RequestError, match="--subject-python"), open_subject("reference", path=(tmp_path,)):
        pass


@pytest.mark.parametrize("files", [["../outside"], ["absent"], ["/etc/hostname"], ["link"]])
def test_files_it_claims_to_have_written_must_be_there(
    files: list[str], impostor: Callable[..., Any], tmp_path: Path
) -> None:
    code = f"""
        target = request["arguments"]["target"]
        os.mkdir(target)
        open(target + "/present", "w").close()
        if {files == ["link"]}:
            os.symlink("/etc/hostname", target + "/link")
        say(result={{"files": {files!r}, "bytes_written": 1, "seconds": 1.0}})
    """
    request = ConvertRequest("source", str(tmp_path / "target"), "llama")
    kind, message = call_refused(impostor(code), lambda subject: subject.convert(request))
    assert kind == "protocol"
    assert files[0] in message


@pytest.mark.parametrize("named", ["rag.jinja", "absent.jinja"])
def test_a_checkpoint_may_have_a_folder(named: str, impostor: Callable[..., Any], tmp_path: Path) -> None:
    """As transformers writes named chat templates; what it names there must be there too."""
    code = f"""
        folder = request["arguments"]["target"] + "/additional_chat_templates"
        os.makedirs(folder)
        open(folder + "/rag.jinja", "w").write("x")
        say(result={{"files": ["additional_chat_templates/{named}"], "bytes_written": 1, "seconds": 1.0}})
    """
    request = ConvertRequest("source", str(tmp_path / "target"), "llama")
    if named == "rag.jinja":
        with impostor(code) as subject:
            subject.convert(request)
        assert (tmp_path / "target" / "additional_chat_templates" / named).read_text() == "x"
        return
    kind, message = call_refused(impostor(code), lambda subject: subject.convert(request))
    assert (kind, named in message) == ("protocol", True)


TRACE_RESULT = {
    "scopes": [], "names": {}, "ran": {"moe": "dropless"}, "dtype": "float32", "device": "cpu", "seconds": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("", "trace.json"),
        (str({**TRACE_RESULT, "ran": {"moe": "looped"}}).replace("'", '"'), "differs from trace.json"),
        (" " * (9 << 20), "longer"),
    ],
    ids=["no file", "empty", "another answer", "too long"],
)
def test_a_trace_must_say_what_the_answer_says(
    content: str | None, says: str, impostor: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "content").write_text(content or "")
    code = f"""
        output = request["arguments"]["output"]
        if {content is not None}:
            os.mkdir(output)
            with open(output + "/trace.json", "w") as file:
                file.write(open({str(tmp_path / "content")!r}).read())
        say(result={TRACE_RESULT!r})
    """
    request = TraceRequest("checkpoint", "inputs", str(tmp_path / "trace"))
    kind, message = call_refused(impostor(code), lambda subject: subject.trace(request))
    assert kind == "protocol"
    assert says in message


def copy_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every directory for a large one."""
    for module in (exchange, exchange_tree):
        monkeypatch.setattr(module, "MAX_COPIED_BYTES", 0)


def test_much_is_moved_only_when_every_process_is_gone(
    impostor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_nothing(monkeypatch)
    code = """
        target = request["arguments"]["target"]
        os.mkdir(target)
        open(target + "/present", "w").write("x")
        say(result={"files": ["present"], "bytes_written": 1, "seconds": 1.0})
    """
    target = tmp_path / "target"
    request = ConvertRequest("source", str(target), "llama")
    with impostor(code) as subject:
        assert subject.convert(request).files == ("present",)
    assert (target / "present").read_text() == "x"
    shutil.rmtree(target)
    end = ProcessTree.end
    monkeypatch.setattr(ProcessTree, "end", lambda tree: end(tree) and False)
    kind, message = call_refused(impostor(code), lambda subject: subject.convert(request))
    assert (kind, target.exists()) == ("crash", False)
    assert "its processes cannot be ended" in message


@pytest.mark.parametrize("who", ["subject", "machine"])
@pytest.mark.parametrize("found_by", ["the next call", "a question"])
def test_a_disk_that_is_full_after_an_answer_is_charged_to_who_filled_it(
    found_by: str, who: str, impostor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real, others = os.statvfs, tmp_path / "filled by others"

    def statvfs(_: Path) -> Any:
        full = others.exists() or list(tmp_path.glob("hub-tests-worker.*/exchange/outbox/more"))
        return SimpleNamespace(f_bavail=0, f_frsize=1, f_files=0, f_favail=0) if full else real("/")

    monkeypatch.setattr(os, "statvfs", statvfs)
    path = '"/more"' if who == "subject" else '"/../../../filled by others"'
    code = f"""
        target = request["arguments"]["target"]
        os.mkdir(target)
        open(target + "/present", "w").close()
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        say(result={{"files": ["present"], "bytes_written": 1, "seconds": 1.0}})
        while not os.path.exists({str(tmp_path / "go on")!r}):
            time.sleep(0.01)
        open(os.path.dirname(target) + {path}, "w").close()
        time.sleep(600)
    """
    with impostor(code) as subject:
        subject.convert(ConvertRequest("source", str(tmp_path / "target"), "llama"))
        assert subject.find_disk_failure() is None
        (tmp_path / "go on").touch()
        wait_until(lambda: has_ended((tmp_path / "pid").read_text()))
        if found_by == "a question":
            error = subject.find_disk_failure()
        else:
            with pytest.raises(HubTestsError) as raised:
                subject.describe()
            error = raised.value
        assert isinstance(error, SubjectError if who == "subject" else InfrastructureError)
        assert ("filled the disk" if who == "subject" else "less than 1 GiB or 1024 names free") in str(error)
        assert subject.find_disk_failure() is None, "the worker has ended"
        if who == "machine":
            with pytest.raises(InfrastructureError, match="make room"):
                subject.describe()


def test_without_a_sandbox_there_is_no_compile_cache(impostor: Callable[..., Any], tmp_path: Path) -> None:
    """The program could write to the machine's own copy."""
    with impostor("say(result=DESCRIPTION)", compile_cache=CompileCache(tmp_path / "cache", fill=True)) as subject:
        subject.describe()
        assert not has_compile_cache(subject)
        assert not subject.drop_compile_cache()
        assert subject.compile_cache_figures() == {}
    assert not (tmp_path / "cache").exists()


def test_want_of_memory_is_no_fault_of_the_compile_cache(
    impostor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []
    monkeypatch.setattr("ci.subjects.worker_subject.WorkerSubject.drop_compile_cache", lambda _: dropped.append("x"))
    kind, _ = call_refused(impostor("say(failure='out_of_memory', message='2 TiB')"))
    assert (kind, dropped) == ("out_of_memory", [])


WRITER = """
    wanted = request["method"]
    if wanted == "prepare":
        def spread():
            while places:
                for known in list(places):
                    for place, directories, _ in os.walk(known):
                        for directory in directories if place.endswith("outbox") else []:
                            open(os.path.join(place, directory, "evil"), "w").close()
                time.sleep(0.01)
        places = [{outside!r}]
        threading.Thread(target=spread, name="spread", daemon=True).start()
        say(result=True)
    elif wanted == "convert":
        places = []  # of who converts: the other one goes on
        [thread.join() for thread in threading.enumerate() if thread.name == "spread"]
        target = request["arguments"]["target"]
        os.mkdir(target)
        open(target + "/present", "w").write(str(os.getpid()))
        until = time.monotonic() + {seconds}
        while not os.path.exists(target + "/evil") and time.monotonic() < until:
            time.sleep(0.01)
        say(result={{"files": ["present"], "bytes_written": 1, "seconds": 1.0}})
    else:
        say(result={description!r})
"""


@pytest.mark.parametrize("sandboxed", [True, False])
def test_a_large_conversion_leaves_a_worker_that_cannot_reach_its_output(
    sandboxed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sandbox the same worker reaches it, so that one is never left there."""
    isolation = detect_isolation() if sandboxed else NO_SANDBOX
    if sandboxed and not isolation.applied:
        pytest.skip(f"no sandbox here: {isolation.description}")
    copy_nothing(monkeypatch)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_text("x")
    seconds = 1 if sandboxed else 60
    code = WRITER.format(outside=str(tmp_path / "scratch"), description=DESCRIPTION, seconds=seconds)
    launched = count_starts(monkeypatch)
    request = ConvertRequest(str(tmp_path / "source"), str(tmp_path / "target"), "llama")
    with open_impostor(tmp_path, code, isolation=isolation) as subject:
        assert subject.converts_apart(request.source) is sandboxed
        subject.prepare_for(tmp_path / "source")
        assert len(launched) == (2 if sandboxed else 1)
        if sandboxed:
            subject.convert(request)
        else:
            with subject.make_converter() as converter:
                converter.write_checkpoint("convert", request)
        subject.describe()
        assert len(launched) == 2, "nothing was started again for the calls that follow"
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"present", *(() if sandboxed else ("evil",))}


def count_starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    launched: list[Any] = []
    start = WorkerProcess.start

    def counted(*arguments: Any) -> Any:
        launched.append(arguments)
        return start(*arguments)

    monkeypatch.setattr(WorkerProcess, "start", counted)
    return launched


def test_a_converter_that_fills_the_disk_is_the_subjects_failure_for_all_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not detect_isolation().applied:
        pytest.skip(f"no sandbox here: {detect_isolation().description}")
    copy_nothing(monkeypatch)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    real = os.statvfs

    def statvfs(_: Path) -> Any:
        full = list(tmp_path.glob("scratch/hub-tests-worker.*/exchange/outbox/more"))
        return SimpleNamespace(f_bavail=0, f_frsize=1, f_files=0, f_favail=0) if full else real("/")

    monkeypatch.setattr(os, "statvfs", statvfs)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_text("x")
    code = """
        if request["method"] == "convert":
            open(os.path.dirname(request["arguments"]["target"]) + "/more", "w").close()
            time.sleep(600)
        say(result=True)
    """
    with open_impostor(tmp_path, code, isolation=detect_isolation()) as subject:
        subject.prepare_for(tmp_path / "source")
        with pytest.raises(SubjectError, match="filled the disk"):
            subject.convert(ConvertRequest(str(tmp_path / "source"), str(tmp_path / "target"), "llama"))
        assert "filled the disk" in str(subject.find_disk_failure())


def test_an_unused_converter_ends_with_the_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not detect_isolation().applied:
        pytest.skip(f"no sandbox here: {detect_isolation().description}")
    copy_nothing(monkeypatch)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_text("x")
    with open_impostor(tmp_path, "say(result=True)", isolation=detect_isolation()) as subject:
        subject.prepare_for(tmp_path / "source")
        subject.prepare_for(tmp_path / "source")
        assert len(list((tmp_path / "scratch").iterdir())) == 2
    assert not list((tmp_path / "scratch").iterdir())


def test_a_worker_that_is_warmed_up_starts_once_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
        if request["method"] == "prepare":
            while not os.path.exists({str(tmp_path / "go on")!r}):
                time.sleep(0.01)
            say(result=True)
        else:
            say(result={DESCRIPTION!r})
    """
    launched, clock = count_starts(monkeypatch), PhaseClock()
    with open_impostor(tmp_path, code, clock=clock) as subject:
        subject.warm_up()
        subject.warm_up()
        (tmp_path / "go on").touch()  # who waited for its answer would never come here
        assert subject.describe().version == "1"
        assert len(launched) == 1
        subject.warm_up()
        assert len(launched) == 1, "it is warm"
    (start,) = [phase for phase in clock.take() if phase.phase == "start"]
    assert (start.detail, start.seconds > 0) == ("subject", True)


def test_a_device_is_made_ready_while_another_process_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not detect_isolation().applied:
        pytest.skip(f"no sandbox here: {detect_isolation().description}")
    copy_nothing(monkeypatch)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_text("x")
    code = f"""
        method, arguments = request["method"], request["arguments"]
        if method == "prepare_device":
            time.sleep(1)
            print("ready:", arguments["device"], flush=True)
            say(failure="unsupported", message="no such device")
        elif method == "convert":
            os.mkdir(arguments["target"])
            say(result={{"files": [], "bytes_written": 1, "seconds": 1.0}})
        else:
            say(result=True if method == "prepare" else {DESCRIPTION!r})
    """
    with open_impostor(tmp_path, code, isolation=detect_isolation()) as subject:
        subject.warm_device("cuda")
        subject.prepare_for(tmp_path / "source")
        subject.warm_device("cpu")
        subject.warm_device("cuda")
        subject.convert(ConvertRequest(str(tmp_path / "source"), str(tmp_path / "target"), "llama"))
        assert subject._warming, "it was waited for"
        assert subject.describe().version == "1"
        assert subject._process is not None
        assert subject._process.log.read_text().count("ready: cuda") == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("os.kill(os.getpid(), 9)", "describe: the worker was killed by SIGKILL"),
        ("say(failure='crash', message='no module torch')", "no module torch"),
        ("say(result=17)", "response to describe"),
    ],
)
def test_a_worker_that_cannot_be_warmed_up_says_so_in_the_next_call(answer: str, said: str, tmp_path: Path) -> None:
    with open_impostor(tmp_path, answer) as subject:
        subject.warm_up()
        with pytest.raises(SubjectError, match=said):
            subject.describe()


def test_a_plain_refusal_to_prepare_is_left_to_the_call_itself(tmp_path: Path) -> None:
    code = f"""
        if request["method"] == "prepare":
            say(failure="unsupported", message="no")
        else:
            say(result={DESCRIPTION!r})
    """
    with open_impostor(tmp_path, code) as subject:
        subject.warm_up()
        assert subject.describe().version == "1"
