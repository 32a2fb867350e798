"""Headers, held against safetensors' own parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors import deserialize as untyped_deserialize

from ci.errors import InfrastructureError
from ci.hub.header import (
    DTYPE_BITS,
    MAX_HEADER,
    TensorInfo,
    count_tensor_bytes,
    find_header_end,
    parse_header,
    write_header,
)


def deserialize(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    """safetensors' own reading of a file."""
    tensors: list[tuple[str, dict[str, Any]]] = untyped_deserialize(content)  # type: ignore[no-untyped-call]
    return tensors


def raw(header: Any, data: bytes = b"") -> bytes:
    """Return a file with this header: JSON values, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "too few"),
    "half a length": (b"\x10\0\0", "too few"),
    "length beyond the file": ((99).to_bytes(8, "little") + b"{}", "cut short"),
    "absurd length": ((2**63).to_bytes(8, "little") + b"{}", "over the limit"),
    "not an object": (raw(b"[1]"), "does not start"),
    "leading space": (raw(b" {}"), "does not start"),
    "not JSON": (raw(b'{"a":'), "not valid JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not valid JSON"),
    "lone surrogate": (raw(b'{"\\ud800": 1}'), "not valid JSON"),
    "deep nesting": (raw(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "long number": (raw(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "NaN": (raw(b'{"a": NaN}'), "not valid JSON"),
    "duplicate tensor": (raw(b'{"a": 1, "a": 2}'), "duplicate key 'a'"),
    "duplicate field": (
        raw(b'{"a": {"dtype": "U8", "dtype": "I8", "shape": [], "data_offsets": [0, 1]}}', b"1"),
        "duplicate",
    ),
    "metadata not text": (raw({"__metadata__": {"a": 1}}), "__metadata__"),
    "missing field": (raw({"a": {"dtype": "U8", "shape": [2]}}, b"12"), "needs dtype"),
    "not a tensor": (raw({"a": 3}), "needs dtype"),
    "unknown dtype": (raw({"a": entry("Q8")}, b"12"), "unknown dtype 'Q8'"),
    "dtype is a list": (raw({"a": entry(["U8"])}, b"12"), "unknown dtype"),
    "negative size": (raw({"a": entry(shape=(-2,))}, b"12"), "counts"),
    "float size": (raw({"a": entry(shape=(2.0,))}, b"12"), "counts"),
    "bool size": (raw({"a": entry(shape=(True, 2))}, b"12"), "counts"),
    "three offsets": (raw({"a": entry(offsets=(0, 1, 2))}, b"12"), "counts"),
    "overflow": (raw({"a": entry("F64", (2**62, 2**62))}, b"12"), "does not fill"),
    "backwards": (raw({"a": entry(offsets=(2, 0))}, b"12"), "does not fill"),
    "length mismatch": (raw({"a": entry(shape=(3,))}, b"12"), "does not fill"),
    "half a byte": (raw({"a": entry("F4", (3,), (0, 1))}, b"1"), "does not fill"),
    "hole at the start": (raw({"a": entry(offsets=(1, 3))}, b"012"), "starts at 1, expected 0"),
    "hole": (raw({"a": entry(), "b": entry(offsets=(3, 5))}, b"01234"), "starts at 3, expected 2"),
    "overlap": (raw({"a": entry(), "b": entry(offsets=(1, 3))}, b"012"), "starts at 1, expected 2"),
    "file too long": (raw({"a": entry()}, b"123"), "fill 2 bytes of data, the file has 3"),
    "file too short": (raw({"a": entry()}, b"1"), "fill 2 bytes of data, the file has 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_in_one_line(name: str) -> None:
    content, problem = HOSTILE[name]
    with pytest.raises(InfrastructureError) as refused:
        parse_header(content, len(content), what="shard")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"duplicate tensor", "duplicate field", "leading space"}))
def test_safetensors_refuses_them_too(name: str) -> None:
    """The list holds only what safetensors refuses, except three that its format forbids and its parser accepts."""
    with pytest.raises((SafetensorError, ValueError, OverflowError)):
        deserialize(HOSTILE[name][0])


def test_cap_is_checked_before_anything_is_asked_for() -> None:
    assert find_header_end(MAX_HEADER.to_bytes(8, "little"), 2**40, what="x") == MAX_HEADER + 8
    with pytest.raises(InfrastructureError, match="over the limit"):
        find_header_end((MAX_HEADER + 1).to_bytes(8, "little"), 2**40, what="x")


tensors = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 5), max_size=3)).filter(
        lambda t: count_tensor_bytes(*t) is not None
    ),
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(tensors, st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
def test_what_is_written_reads_back_here_and_in_safetensors(
    kinds: list[tuple[str, list[int]]], metadata: dict[str, str]
) -> None:
    made, at = [], 0
    for number, (dtype, shape) in enumerate(kinds):
        size = count_tensor_bytes(dtype, shape) or 0
        made.append(TensorInfo(f"t{number}.é", dtype, tuple(shape), at, at + size))
        at += size
    header = write_header(made, metadata)
    content = header + bytes(at)
    assert len(header) % 8 == 0
    parsed = parse_header(content, len(content), what="x")
    assert sorted(parsed.tensors, key=lambda t: t.name) == made
    assert (parsed.data_start, dict(parsed.metadata)) == (len(header), metadata)
    assert {name: info["shape"] for name, info in deserialize(content)} == {t.name: list(t.shape) for t in made}


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.data())
def test_no_bytes_crash_the_parser(noise: bytes, data: st.DataObject) -> None:
    good = raw({"a": entry(), "b": entry("F16", (1,), (2, 4))}, b"0123")
    at = data.draw(st.integers(0, len(good)))
    content = good[:at] + noise + good[at + len(noise) :]
    try:
        parsed = parse_header(content, len(content), what="x")
    except InfrastructureError:
        return
    assert sum(tensor.size for tensor in parsed.tensors) + parsed.data_start == len(content)
    deserialize(content)
