"""Every file has one line in the list, whatever its name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ci.environments.file_list import compare_files, iter_file_lines

if TYPE_CHECKING:
    from pathlib import Path

ODD = (b"a\nb", "c\u2028d".encode(), b"\xff", b"e  f", b"\x1b[2J", b"-g")


def test_odd_names_are_listed_and_their_changes_told(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / os.fsdecode(name)).write_text("1")
    (tmp_path / "own").write_text("")
    text = "".join(f"{line}\n" for line in iter_file_lines(tmp_path, ("own",)))
    assert len(text.splitlines()) == len(ODD)
    assert text.encode()
    assert compare_files(tmp_path, text, ("own",)) == ()
    for name in ODD:
        (tmp_path / os.fsdecode(name)).write_text("2")
    problems = compare_files(tmp_path, text, ("own",))
    assert len(problems) == len(ODD)
    assert all(problem.isprintable() and problem.endswith(" was changed") for problem in problems)


def test_a_link_is_listed_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/somewhere")
    text = "".join(f"{line}\n" for line in iter_file_lines(tmp_path, ()))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("/elsewhere")
    assert compare_files(tmp_path, text, ()) == ("link was changed",)
