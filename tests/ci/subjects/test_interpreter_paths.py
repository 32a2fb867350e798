"""What an interpreter needs to see is found in its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.subjects.interpreter_paths import list_interpreter_directories, list_tool_directories

if TYPE_CHECKING:
    from pathlib import Path


def test_compilers_and_libraries_outside_of_usr_are_listed(tmp_path: Path) -> None:
    (tmp_path / "gcc" / "bin").mkdir(parents=True)
    (tmp_path / "driver").mkdir()
    environment = {
        "CC": f"{tmp_path}/gcc/bin/gcc -m64",
        "CXX": "g++",
        "CUDA_HOME": "/usr/local/cuda",
        "LD_LIBRARY_PATH": f"{tmp_path}/driver:/usr/lib:relative:{tmp_path}/missing",
    }
    assert list_tool_directories(environment) == (tmp_path / "gcc", tmp_path / "driver")


def test_an_environments_interpreter_and_editable_checkouts_are_listed(tmp_path: Path) -> None:
    base, environment, checkout = tmp_path / "base", tmp_path / "environment", tmp_path / "checkout"
    for directory in (base / "bin", environment / "bin", checkout):
        directory.mkdir(parents=True)
    site = environment / "lib/python3.12/site-packages"
    (site / "subject-1.dist-info").mkdir(parents=True)
    (base / "bin/python3").write_text("")
    (environment / "bin/python").symlink_to(base / "bin/python3")
    (environment / "pyvenv.cfg").write_text(f"home = {base}/bin\n")
    (site / "linked.pth").write_text(f"import os\n{base}\n/nowhere\n")
    (site / "subject-1.dist-info/direct_url.json").write_text(
        f'{{"url": "file://{checkout}", "dir_info": {{"editable": true}}}}'
    )
    parts = (base / "bin", environment / "bin", environment / "lib", environment / "pyvenv.cfg")
    assert list_interpreter_directories(environment / "bin/python") == (*parts, base, checkout)
    wrapper = tmp_path / "wrapper" / "python"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!{environment}/bin/python\n")
    assert list_interpreter_directories(wrapper) == (wrapper.parent, *parts, base, checkout)
