"""Which upstream files can be compared with a digest of the Hub."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ci.hub.download_plan import TensorSource, plan_output_files
from ci.hub.file_hashes import Span
from ci.hub.header import TensorInfo, parse_header, write_header
from ci.hub.repository import RemoteFile, Repository
from ci.hub.verification import describe_unverified, find_whole_files, list_unverified

TENSORS = [TensorInfo("a", "U8", (4,), 0, 4), TensorInfo("b", "F32", (1,), 4, 8)]
CONTENT = write_header(TENSORS, {"format": "pt"}) + bytes(range(8))
HEADER = parse_header(CONTENT, len(CONTENT), what="x")
FILE = RemoteFile("x.safetensors", len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
SOURCES = [TensorSource(FILE.path, t, HEADER.data_start + t.begin, HEADER.data_start + t.end) for t in TENSORS]


def find(file: RemoteFile, sources: list[TensorSource]) -> tuple[str, ...]:
    repository = Repository("o/m", "0" * 40, {file.path: file})
    outputs = plan_output_files(sources, max_file_size=5)
    return tuple(found.path for found in find_whole_files(repository, outputs, {file.path: HEADER}))


def test_a_file_that_is_kept_whole_also_over_several_outputs() -> None:
    assert find(FILE, SOURCES) == (FILE.path,)
    repository = Repository("o/m", "0" * 40, {FILE.path: FILE})
    outputs = plan_output_files(SOURCES, max_file_size=5)
    assert len(outputs) == 2
    (whole,) = find_whole_files(repository, outputs, {FILE.path: HEADER})
    digest = hashlib.sha256(whole.start)
    for span, tensor in zip(whole.spans, TENSORS, strict=True):
        assert span.end - span.begin == tensor.size
        digest.update(CONTENT[HEADER.data_start + tensor.begin : HEADER.data_start + tensor.end])
    assert digest.hexdigest() == whole.sha256


def test_a_file_that_is_kept_in_part_or_has_no_digest() -> None:
    assert find(FILE, SOURCES[:1]) == ()
    assert find(replace(FILE, sha256=None), SOURCES) == ()


def test_what_is_left() -> None:
    assert list_unverified(["b", "a", "b"], []) == ("a", "b")
    assert describe_unverified(()) == ()
    assert describe_unverified(("a",))[0].startswith("not verified upstream: a: no digest")
    assert describe_unverified(("a", "b", "c"))[0].startswith("not verified upstream: a and 2 more: no digest")


def test_a_copy_of_a_file_is_compared_by_its_own_digest() -> None:
    repository = Repository("o/m", "0" * 40, {FILE.path: FILE})
    headers = {FILE.path: HEADER}
    (output,) = plan_output_files(SOURCES, max_file_size=100, headers=headers)
    (whole,) = find_whole_files(repository, [output], headers)
    assert (whole.start, whole.spans) == (b"", (Span(output.name, 0, len(CONTENT)),))
