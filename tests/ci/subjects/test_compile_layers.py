"""Layers: what goes in comes out, what is not a plain file does not go in, what is damaged does not come out."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.subjects import compile_layers
from ci.subjects.compile_layers import (
    HEADER,
    Layer,
    LayerError,
    list_layers,
    prune_layers,
    touch_layer,
    unpack_layer,
    write_layer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KEY, OTHER = "a" * 32, "b" * 32
FILES = {"inductor/ab/cab.so": b"\x7fELF", "triton/XYZ/__grp__k.json": b"{}", "triton/XYZ/k.cubin": bytes(5000)}


def write_tree(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def read_tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def make_layer(tmp_path: Path, files: dict[str, bytes], *, key: str = KEY, known: tuple[str, ...] = ()) -> Layer:
    root = tmp_path / "cache"
    root.mkdir(exist_ok=True)
    source = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
    layer = write_layer(write_tree(source, files), root, key, known)
    assert layer
    return layer


def unpack(layer: Layer, target: Path, known: tuple[str, ...] = ()) -> tuple[dict[str, int], list[str]]:
    made: list[str] = []
    target.mkdir(exist_ok=True)
    return unpack_layer(layer, target, known, lambda path: made.append(str(path.relative_to(target)))), made


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    layer = make_layer(tmp_path, FILES)
    sizes, made = unpack(layer, tmp_path / "copy")
    assert read_tree(tmp_path / "copy") == FILES
    assert sizes == {name: len(content) for name, content in FILES.items()}
    assert set(made) == {*FILES, "inductor", "inductor/ab", "triton", "triton/XYZ"}
    assert layer.path.name == f"{KEY}-{hashlib.sha256(layer.path.read_bytes()).hexdigest()}.tar"
    assert layer.path.stat().st_mode & 0o777 == 0o644
    assert list((tmp_path / "cache").iterdir()) == [layer.path]


def test_equal_content_is_one_layer(tmp_path: Path) -> None:
    one = make_layer(tmp_path, FILES)
    two = make_layer(tmp_path, dict(reversed(FILES.items())))
    assert (one.path, len(list_layers(tmp_path / "cache"))) == (two.path, 1)


def test_known_files_are_left_out_both_ways(tmp_path: Path) -> None:
    known = ("inductor/ab/cab.so",)
    layer = make_layer(tmp_path, FILES, known=known)
    assert set(unpack(layer, tmp_path / "copy")[0]) == set(FILES) - set(known)
    whole = make_layer(tmp_path, FILES)
    assert set(unpack(whole, tmp_path / "other", known)[0]) == set(FILES) - set(known)
    assert not (tmp_path / "other" / known[0]).exists()


def test_nothing_new_is_no_layer(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    source = write_tree(tmp_path / "source", FILES)
    assert write_layer(source, tmp_path / "cache", KEY, FILES) is None
    assert list((tmp_path / "cache").iterdir()) == []


def test_locks_and_half_written_files_are_left_out(tmp_path: Path) -> None:
    scratch = {"inductor/locks/c.lock": b"", "triton/X/tmp.pid_3_a/k.ptx": b"x", "triton/X/lock": b"", "a.tmp": b""}
    assert set(unpack(make_layer(tmp_path, FILES | scratch), tmp_path / "copy")[0]) == set(FILES)


@pytest.mark.parametrize("limit", ["bytes", "names", "depth"])
def test_a_limit_is_kept(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    many = {str(number): b"" for number in range(20)}
    deep = {"/".join("d" * (compile_layers.MAX_DEPTH + 1)) + "/f": b""}
    source = write_tree(tmp_path / "source", {"bytes": FILES, "names": many, "depth": deep}[limit])
    monkeypatch.setattr(compile_layers, "MAX_FILES", 19)
    said = {"bytes": "more than 1000 bytes", "names": "more than 19 files", "depth": "deeper"}
    with pytest.raises(LayerError, match=said[limit]):
        write_layer(source, tmp_path / "cache", KEY, (), 1000 if limit == "bytes" else 10**6)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "newline", "long", "root"])
def test_only_plain_files_go_in(kind: str, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    source = write_tree(tmp_path / "source", FILES)
    make: dict[str, Callable[[], object]] = {
        "link": lambda: link(source / "x", Path("/etc/passwd")),
        "hard link": lambda: os.link(source / "triton/XYZ/k.cubin", source / "x"),
        "pipe": lambda: os.mkfifo(source / "x"),
        "newline": lambda: (source / "a\nb").touch(),
        "long": lambda: (source / ("x" * 201)).touch(),
        "root": lambda: link(source, source.rename(tmp_path / "moved")),
    }
    make[kind]()
    with pytest.raises(OSError if kind == "root" else LayerError):
        write_layer(source, tmp_path / "cache", KEY, ())
    assert list((tmp_path / "cache").iterdir()) == []


def pack(tmp_path: Path, *members: tarfile.TarInfo, key: str = KEY, name_key: str = KEY) -> Layer:
    """Write a tar of any members, under the name of a layer."""
    (tmp_path / "cache").mkdir(exist_ok=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        header = tarfile.TarInfo(HEADER)
        header.size = len(key)
        archive.addfile(header, io.BytesIO(key.encode()))
        for member in members:
            archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")[: member.size]))
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    path = tmp_path / "cache" / f"{name_key}-{digest}.tar"
    path.write_bytes(content.getvalue())
    return next(layer for layer in list_layers(tmp_path / "cache") if layer.path == path)


def sparse(name: str) -> tarfile.TarInfo:
    """A plain file without content that is unpacked as a megabyte: sparse files of the PAX format, version 1.0."""
    info = member(name)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(2**20),
    }
    info.size = 512
    return info


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info


@pytest.mark.parametrize(
    "odd",
    [
        *(member(name) for name in ("../x", "/etc/x", "a/../../x", "a//b", "./x", "/".join("d" * 14))),
        *(member("x", kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)),
        *(member("x", kind) for kind in (tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE)),
        *(member(name) for name in ("a\nb", "\x1b[2J", "a/\udcff", "x" * 300, "é" * 200, "x\u2028")),
        *(member(name) for name in ("good", "good/below")),
        sparse("x"),
    ],
    ids=lambda info: f"{info.name[:20]!a}-{info.type!r}",
)
def test_an_odd_member_is_refused_before_anything_is_written(odd: tarfile.TarInfo, tmp_path: Path) -> None:
    layer = pack(tmp_path, member("good"), odd)
    with pytest.raises(LayerError):
        unpack(layer, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []
    assert not (tmp_path / "x").exists()


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Written in part, a layer would be used though it was not told of: no failure would be repeated without it."""
    odd = member("placeholder")
    odd.pax_headers = {"path": "x\0y"}
    layer = pack(tmp_path, member("good"), odd)
    with pytest.raises(LayerError):
        unpack(layer, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_layer_of_another_key_is_refused(tmp_path: Path) -> None:
    layer = pack(tmp_path, member("good"), key=OTHER)
    with pytest.raises(LayerError, match="made for another environment"):
        unpack(layer, tmp_path / "copy")


@pytest.mark.parametrize("damage", ["short", "changed", "no tar", "gone", "link"])
def test_a_damaged_layer_is_refused(damage: str, tmp_path: Path) -> None:
    layer = make_layer(tmp_path, FILES)
    content = layer.path.read_bytes()
    if damage == "gone":
        layer.path.unlink()
    elif damage == "link":
        layer.path.rename(tmp_path / "moved")
        layer.path.symlink_to(tmp_path / "moved")
    else:
        changed = {"short": content[:3000], "changed": content.replace(b"ELF", b"EVI"), "no tar": b"\x00" * 99}
        layer.path.write_bytes(changed[damage])
    with pytest.raises(LayerError):
        unpack(layer, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    first, second = make_layer(tmp_path, {"a": b"1", "b/c": b"2"}), make_layer(tmp_path, {"a/x": b"3"})
    third = make_layer(tmp_path, {"b": b"4"})
    known = tuple(unpack(first, tmp_path / "copy")[0])
    for layer in (second, third):
        with pytest.raises(LayerError, match="something else in its place"):
            unpack(layer, tmp_path / "copy", known)
    assert read_tree(tmp_path / "copy") == {"a": b"1", "b/c": b"2"}


def test_a_list_holds_only_what_is_called_and_is_a_layer(tmp_path: Path) -> None:
    assert list_layers(tmp_path / "missing") == ()
    mine, other = make_layer(tmp_path, FILES), make_layer(tmp_path, FILES, key=OTHER)
    root = tmp_path / "cache"
    (root / "notes.tar").touch()
    (root / f"{KEY}-{'0' * 64}.tar").symlink_to(mine.path)
    (root / f"{KEY}-{'1' * 64}.tar").mkdir()
    os.utime(mine.path, (1, 1))
    assert [layer.path for layer in list_layers(root)] == [other.path, mine.path]
    assert [layer.path for layer in list_layers(root, KEY)] == [mine.path]
    touch_layer(mine)
    assert [layer.path for layer in list_layers(root)] == [mine.path, other.path]


def test_pruning_removes_what_was_not_used_for_long(tmp_path: Path) -> None:
    layers = [make_layer(tmp_path, {str(number): bytes(10**5)}) for number in range(3)]
    for age, layer in enumerate(layers):
        os.utime(layer.path, (1000 - age, 1000 - age))
    root, part = tmp_path / "cache", tmp_path / "cache" / "left.part"
    part.touch()
    os.utime(part, (0, 0))
    would = prune_layers(root, max_bytes=250_000, dry_run=True)
    assert [layer.path for layer in would] == [layers[2].path]
    assert len(list(root.iterdir())) == 4
    assert prune_layers(root, max_bytes=250_000) == would
    assert {path.name for path in root.iterdir()} == {layer.path.name for layer in layers[:2]}
    touch_layer(layers[0])
    assert [layer.path for layer in prune_layers(root, older_than=60)] == [layers[1].path]
    assert list(root.iterdir()) == [layers[0].path]
