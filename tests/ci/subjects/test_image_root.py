"""The root of an unpacked image: found from its programs, followed as from the inside, bound entry by entry."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ci.errors import RequestError
from ci.subjects import image_root
from ci.subjects.image_root import (
    bind_driver,
    find_image_root,
    find_setpriv,
    inside_path,
    is_program,
    list_driver_libraries,
    list_root_bindings,
    read_image_variables,
    refuse_unsandboxed,
    resolve_inside,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle whose interpreter is reached by absolute links, as in an image of Debian's alternatives."""
    root = tmp_path / "bundle" / "rootfs"
    for directory in ("usr/bin", "etc/alternatives", "opt/tool", "proc", "tmp"):
        (root / directory).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/python3").symlink_to("/etc/alternatives/python3")
    (root / "etc/alternatives/python3").symlink_to("../../usr/bin/python3.12")
    (root / "usr/bin/python3.12").write_text("")
    (root / "usr/bin/python3.12").chmod(0o755)
    (root.parent / "config.json").write_text(json.dumps({"process": {"env": ["PATH=/usr/bin", "A=b=c"]}}))
    return root


def test_a_program_of_an_image_has_a_path_inside(root: Path) -> None:
    program = root / "bin/python3"
    assert find_image_root(program) == root
    assert inside_path(root, program) == "/bin/python3"
    assert resolve_inside(root, "/bin/python3") == root / "usr/bin/python3.12"
    assert is_program(program)
    assert not is_program(root / "bin/python4")
    assert not is_program(root / "etc/alternatives")


def test_a_program_of_the_machine_has_none(tmp_path: Path) -> None:
    assert find_image_root(Path("/usr/bin/python3")) is None
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    assert find_image_root(tmp_path / "rootfs/bin/python3") is None  # no bundle: it has no config.json
    assert not is_program(tmp_path / "python3")
    refuse_unsandboxed(None, "whatever")


def test_links_stay_in_the_image_and_end(root: Path) -> None:
    (root / "usr/bin/up").symlink_to("../../../../../../../../etc/alternatives")
    assert resolve_inside(root, "/usr/bin/up") == root / "etc/alternatives"
    (root / "usr/bin/loop").symlink_to("loop")
    with pytest.raises(RequestError, match="too many links"):
        resolve_inside(root, "/usr/bin/loop")


def test_its_variables_are_those_of_the_bundle(root: Path) -> None:
    assert read_image_variables(root) == {"PATH": "/usr/bin", "A": "b=c"}
    (root.parent / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"not the config.json of an OCI bundle"):
        read_image_variables(root)


def test_the_root_is_bound_but_for_what_the_sandbox_has_itself(root: Path) -> None:
    words = list_root_bindings(root, [Path("/tmp/exchange"), Path("/srv/checkout")])
    assert words == [
        *("--symlink", "usr/bin", "/bin"),
        *("--ro-bind", str(root / "etc"), "/etc"),
        *("--ro-bind", str(root / "opt"), "/opt"),
        *("--ro-bind", str(root / "usr"), "/usr"),
    ]


def test_a_directory_in_which_the_machine_needs_a_place_is_opened(root: Path) -> None:
    words = " ".join(list_root_bindings(root, [Path("/opt/here/checkout"), Path("/usr/bin")]))
    assert f"--perms 0755 --dir /opt --ro-bind {root}/opt/tool /opt/tool" in words
    assert "--perms 0755 --dir /usr" in words
    assert f"{root}/usr" not in words  # the machine's takes its place


@pytest.mark.parametrize("place", ["/bin/below", "/usr/bin/python3.12/below"])
def test_a_place_that_the_image_has_as_something_else_is_refused(root: Path, place: str) -> None:
    with pytest.raises(RequestError, match=f"{place}: the image has no directory"):
        list_root_bindings(root, [Path(place)])


def test_root_leaves_itself_by_the_images_own_program(root: Path) -> None:
    with pytest.raises(RequestError, match="no setpriv"):
        find_setpriv(root)
    (root / "usr/bin/setpriv").write_text("")
    assert find_setpriv(root) == "/usr/bin/setpriv"


CACHE = """2 libs found in cache `/etc/ld.so.cache'
\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1
\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
"""


def test_the_drivers_libraries_are_the_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ldconfig"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{CACHE}END\n")
    program.chmod(0o755)
    monkeypatch.setattr(image_root, "find_system_program", lambda _: str(program))
    library = "/lib/x86_64-linux-gnu"
    assert list_driver_libraries({}) == {
        "libcuda.so.1": Path(library, "libcuda.so.1"),
        "libnvidia-ml.so.1": Path(library, "libnvidia-ml.so.1"),
    }
    (tmp_path / "nvidia").mkdir()
    for name in ("libcuda.so.1", "libcudart.so.12"):
        (tmp_path / "nvidia" / name).write_text("")
    named = list_driver_libraries(
        {"LD_LIBRARY_PATH": f"relative:{tmp_path}/nvidia"}
    )  # as pods of some clusters have it
    assert named["libcuda.so.1"] == tmp_path / "nvidia/libcuda.so.1"
    assert sorted(named) == ["libcuda.so.1", "libnvidia-ml.so.1"]
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    words, environment = bind_driver({"LD_LIBRARY_PATH": "/opt/lib"})
    assert words[3:] == ["--ro-bind", f"{library}/libcuda.so.1", "/tmp/driver/libcuda.so.1"]
    assert environment == {"LD_LIBRARY_PATH": os.pathsep.join(("/tmp/driver", "/opt/lib"))}


def test_without_a_driver_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(image_root, "find_system_program", lambda _: "/nowhere/ldconfig")
    assert bind_driver({"LD_LIBRARY_PATH": "/opt/lib"}) == ([], {"LD_LIBRARY_PATH": "/opt/lib"})
