"""Hostile answers and files of a worker, one by one: each is the subject's failure, and none costs the judge much."""

from __future__ import annotations

import json
import resource
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.equivalence.round_trip import resolve_config
from ci.equivalence.trace_compare import TraceComparison
from ci.errors import SubjectError
from ci.subjects.base import ConvertRequest, TraceRequest
from ci.subjects.open_subject import open_subject
from ci.subjects.sandbox import detect_isolation
from ci.subjects.trace_files import TraceReader, TraceWriter

if TYPE_CHECKING:
    from ci.subjects.base import Subject

ISOLATION = detect_isolation()
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}"),
]
PRELUDE = """
import json, os, struct, sys, threading, time
from pathlib import Path

WRITE = int(sys.argv[-1])
SHAPES = {"embeddings": (1, 4, 8), "decoder.0": (1, 4, 8), "final_norm": (1, 4, 8), "logits": (1, 4, 16)}
SCOPES = {"embeddings": ["embeddings"], "decoder.0": ["decoder.0"], "head": ["final_norm", "logits"]}


def send(number, result, **more):
    os.write(WRITE, json.dumps({"id": number, "result": result, **more}).encode() + b"\\n")


def count(shape):
    size = 4
    for length in shape:
        size *= length
    return size


def write_file(path, tensors, dtype="F32", fill=b"\\0"):
    header, at = {}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + count(shape)]}
        at += count(shape)
    write_raw(path, json.dumps(header).encode(), at, fill)


def write_raw(path, header, size, fill=b"\\0", length=None):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length) + header)
        file.write(fill * min(size, 2**20))
        file.truncate(8 + len(header) + size)


def write_entry(path, shape, offsets):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    write_raw(path, json.dumps({"decoder.0": entry}).encode(), 128)


def done(*files):
    send(number, {"files": files, "bytes_written": 1, "seconds": 0})


def result(**more):
    told = {"scopes": list(SCOPES), "names": SCOPES, "ran": {}, "dtype": "float32", "device": "cpu", "seconds": 0.1}
    return {**told, **more}


def write_trace(output, told=None):
    output.mkdir()
    for scope, names in SCOPES.items():
        write_file(output / f"{scope}.safetensors", {name: SHAPES[name] for name in names})
    (output / "trace.json").write_text(json.dumps(told or result()))


for line in os.fdopen(int(sys.argv[-2])):
    request = json.loads(line)
    number, arguments = request["id"], request["arguments"]
    output = Path(arguments.get("output") or arguments.get("target") or "/tmp")
    print("asked for", request["method"], flush=True)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    directory = tmp_path / "interpreter"
    directory.mkdir()
    for path in (directory, *directory.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    return directory / "python"


def start(interpreter: Path, code: str, timeout: float = 60) -> Any:
    interpreter.write_text(f"#!{sys.executable}\n{PRELUDE}{textwrap.indent(textwrap.dedent(code), '    ')}")
    interpreter.chmod(0o755)
    return open_subject("reference", python=interpreter, timeout=timeout, isolation=ISOLATION)


def compare(subject: Subject, tmp_path: Path) -> Any:
    """Ask for a trace and compare it with one of ones."""
    (tmp_path / "inputs").write_bytes(b"")
    subject.trace(TraceRequest(str(tmp_path), str(tmp_path / "inputs"), str(tmp_path / "trace")))
    expected = TraceWriter(tmp_path / "expected")
    shapes = {"embeddings": (1, 4, 8), "decoder.0": (1, 4, 8), "final_norm": (1, 4, 8), "logits": (1, 4, 16)}
    for scope in ("embeddings", "decoder.0"):
        expected.write_scope(scope, {scope: torch.zeros(shapes[scope])})
    expected.write_scope("head", {name: torch.zeros(shapes[name]) for name in ("final_norm", "logits")})
    expected.finish(ran={}, dtype="float32", device="cpu", seconds=0.1)
    actual, keep = TraceReader(tmp_path / "trace"), torch.ones(1, 4, dtype=torch.bool)
    return TraceComparison(actual, TraceReader(tmp_path / "expected"), keep).run()


def test_an_honest_trace_is_compared(interpreter: Path, tmp_path: Path) -> None:
    with start(interpreter, "write_trace(output); send(number, result())") as subject:
        diff = compare(subject, tmp_path)
    assert diff.problems == ()
    assert set(diff.tensors) == {"embeddings", "decoder.0", "final_norm", "logits"}


FILE = "path = output / 'decoder.0.safetensors'; "
TRACES = {
    "a sparse file of ten gigabytes": FILE + "write_file(path, {'decoder.0': (1, 4, 2**29 + 2**27)}, fill=b'')",
    "a header of 2^62 bytes": FILE + "write_raw(path, b'{}', 64, length=2**62)",
    "a header that is longer than its file": FILE + "write_raw(path, b'{}', 64, length=10**6)",
    "a header of deep JSON": FILE + "write_raw(path, b'[' * 10**6, 64)",
    "a header of 90 MB": FILE + "write_raw(path, b'{' + b' ' * 90_000_000 + b'}', 64)",
    "offsets outside of the file": FILE + "write_entry(path, [1, 4, 8], [2**40, 2**40 + 128])",
    "a shape of 2^63": FILE + "write_entry(path, [2**62, 2**62], [0, 128])",
    "a negative shape": FILE + "write_entry(path, [-1, -4, 8], [0, 128])",
    "a name twice in one header": FILE
    + """one = '"decoder.0": {"dtype": "F32", "shape": [1, 4, 8], "data_offsets": [%d, %d]}'
write_raw(path, ("{" + one % (0, 128) + "," + one % (128, 256) + "}").encode(), 256, fill=b"1")""",
    "another tensor under the name": FILE + "write_file(path, {'decoder.1': (1, 4, 8)})",
    "another dtype": FILE + "write_file(path, {'decoder.0': (1, 4, 8)}, dtype='I32')",
    "a shape that broadcasts": FILE + "write_file(path, {'decoder.0': (1, 1, 1)})",
    "no elements": FILE + "write_file(path, {'decoder.0': (1, 4, 0)})",
    "NaN everywhere": FILE + "write_file(path, {'decoder.0': (1, 4, 8)}, fill=b'\\xff')",
    "a pickle": FILE + "import pickle; path.write_bytes(pickle.dumps({'decoder.0': [0.0]}))",
    "no file": FILE + "path.unlink()",
    "a file name with a newline": "(output / 'a\\n::error::b').write_text('')",
    "a file name of 250 characters": "(output / ('a' * 250)).write_text('')",
    "a hundred thousand files": "[(output / str(i)).touch() for i in range(100_000)]",
    "a directory": "(output / 'more').mkdir()",
    "a symbolic link to a directory": "(output / 'more').symlink_to('/')",
    "a trace.json of 50 MB": "(output / 'trace.json').write_text(' ' * 50_000_000)",
    "a trace.json of a million brackets": "(output / 'trace.json').write_text('[' * 10**6)",
    "a trace.json that is a link": """(output / 'trace.json').rename(output / 'x')
(output / 'trace.json').symlink_to('x')""",
    "another trace.json than answered": "(output / 'trace.json').write_text(json.dumps(result(seconds=9.0)))",
}


@pytest.mark.parametrize("name", TRACES)
def test_a_hostile_trace_is_the_subjects_failure(name: str, interpreter: Path, tmp_path: Path) -> None:
    code = f"write_trace(output)\n{TRACES[name]}\nsend(number, result())"
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with start(interpreter, code) as subject:
        try:
            problems = compare(subject, tmp_path).problems
        except SubjectError as failure:
            problems = (str(failure),)
    assert problems
    assert "\n" not in str(problems[0])
    assert len(str(problems[0])) < 2000
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "a gigabyte more, in kB"


@pytest.mark.parametrize(
    "claims",
    [
        '"scopes": ["embeddings"] * 2000, "names": SCOPES',
        '"scopes": [], "names": {}',
        '"scopes": ["../../etc"], "names": {"../../etc": ["x"]}',
        '"scopes": list(SCOPES), "names": {**SCOPES, "decoder.0": []}',
        '"scopes": list(SCOPES), "names": {**SCOPES, "decoder.0": ["decoder.0"] * 5000}',
        '"dtype": "int8"',
        '"dtype": "bfloat16"',
        '"not_captured": ["logits", "decoder.0", "final_norm", "embeddings"], "scopes": [], "names": {}',
        '"seconds": "NaN"',
        '"unknown": 1',
    ],
)
def test_a_result_that_does_not_fit_its_files_is_the_subjects_failure(
    claims: str, interpreter: Path, tmp_path: Path
) -> None:
    code = f"told = result(**{{{claims}}})\nwrite_trace(output, told)\nsend(number, told)"
    with start(interpreter, code) as subject:
        try:
            diff = compare(subject, tmp_path)
        except SubjectError:
            return
    wrong = bool(diff.problems) or set(diff.tensors) == {"embeddings", "decoder.0", "final_norm", "logits"}
    assert wrong, "what was claimed away was not compared"


ANSWERS = {
    "twice": "send(number, {}); send(number, {})",
    "another id": "send(number + 1, {})",
    "a line without an end": "[os.write(WRITE, b'x' * 2**20) for _ in range(1024)]",
    "deep JSON": "os.write(WRITE, b'[' * 10**6 + b'\\n')",
    "an integer without an end": "os.write(WRITE, b'{\"id\": ' + b'9' * 10**6 + b'}\\n')",
    "invalid UTF-8": "os.write(WRITE, b'\\xff\\xfe\\n')",
    "a lone surrogate": "send(number, None, failure='error', message='\\ud800'); time.sleep(9)",
    "an unknown failure": "send(number, None, failure='passed', message='')",
    "a long message": "send(number, None, failure='error', message='x\\n' * 10**6)",
    "files outside": "output.mkdir(); done('../../../etc/passwd')",
    "files that are not there": "output.mkdir(); done('x')",
    "a file's name that is too long": "output.mkdir(); done('x' * 9000)",
    "a file's name with a NUL": "output.mkdir(); done('x\\0')",
    "no directory": "done()",
    "a link for its directory": "output.symlink_to('/'); done()",
    "a full disk": "send(number, None, failure='infrastructure', message='No space left on device')",
    "a wrong request": "send(number, None, failure='request', message='Hub unavailable')",
    "a closed pipe": "os.close(WRITE); time.sleep(9)",
    "an exit with code 0": "os._exit(0)",
    "a log of a terabyte": "os.ftruncate(1, 2**40); os._exit(1)",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_is_the_subjects_failure(name: str, interpreter: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    request = ConvertRequest(str(tmp_path / "model"), str(tmp_path / "converted"), "llama")
    with start(interpreter, ANSWERS[name]) as subject, pytest.raises(SubjectError) as failure:
        subject.convert(request)
    assert "\n" not in str(failure.value)
    str(failure.value).encode()


def test_an_export_cannot_bring_code_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as Config\n")
    auto = {"AutoConfig": "evil.Config"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(SubjectError):
        resolve_config(tmp_path)
    assert not marker.exists()
