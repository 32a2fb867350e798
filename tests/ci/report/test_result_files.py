from __future__ import annotations

import gc
import stat
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.report.build_results import build_results
from ci.report.limits import InputLimits
from ci.report.result_files import ResultFolder, pause_garbage_collection, read_result_files
from ci.report.results import Attempt
from tests.ci.report.samples import junit, plan_of

if TYPE_CHECKING:
    from pathlib import Path


def leave(folder: Path, name: str, content: bytes | None = None, **files: str) -> Path:
    """An artifact's folder with a green result file."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "junit.xml").write_bytes(junit(plan_of("smollm2")) if content is None else content)
    for stem, text in files.items():
        (path / {"running": "running.txt", "ended": "ended.txt", "host": "host.json"}[stem]).write_text(text)
    return path


def read_attempts(folder: Path, entry: str = "smollm2", limits: InputLimits | None = None) -> tuple[Attempt, ...]:
    results = read_result_files(folder, limits or InputLimits())
    assert isinstance(results, ResultFolder)
    return tuple(results[entry])


def test_why_a_suite_was_ended_is_one_line(tmp_path: Path) -> None:
    leave(tmp_path, "smollm2", ended="time limit of 8400 s\nand more")
    leave(tmp_path, "mixtral")
    assert read_attempts(tmp_path)[0].ended == "time limit of 8400 s"
    assert read_attempts(tmp_path, "mixtral")[0].ended == ""


def test_one_file_of_every_entry(tmp_path: Path) -> None:
    plan = plan_of("smollm2", "mixtral")
    (tmp_path / "junit.xml").write_bytes(junit(plan))
    (tmp_path / "host.json").write_text('{"gpu0": "H100"}')
    results = build_results(plan, read_result_files(tmp_path))
    assert results.verdict == "passed"
    assert results.entries[1].host == {"gpu0": "H100"}


def test_a_run_that_died_names_the_test_it_was_running(tmp_path: Path) -> None:
    (tmp_path / "running.txt").write_text("suite.py::test_conversion[mixtral]\n")
    (tmp_path / "logs").mkdir()
    results = build_results(plan_of("smollm2", "mixtral"), read_result_files(tmp_path))
    assert [entry.label for entry in results.entries] == ["no result file", "no result file"]
    assert results.causes[0].cases == (("mixtral", "test_conversion[mixtral]"),)
    assert results.causes[0].failure_class == "crash"


@pytest.mark.parametrize(("name", "attempt"), [("smollm2", 1), ("smollm2.3", 3), ("hub-tests-smollm2.2", 2)])
def test_folders_name_entry_and_attempt(tmp_path: Path, name: str, attempt: int) -> None:
    leave(tmp_path, name)
    (only,) = read_attempts(tmp_path)
    assert (only.number, only.junit.problem, len(only.junit.cases)) == (attempt, None, 7)


def test_several_attempts(tmp_path: Path) -> None:
    leave(tmp_path, "hub-tests-smollm2.1", b"<")
    leave(tmp_path, "hub-tests-smollm2.2")
    assert [attempt.number for attempt in read_attempts(tmp_path)] == [1, 2]
    assert build_results(plan_of("smollm2"), read_result_files(tmp_path)).verdict == "passed"


@pytest.mark.parametrize(
    "name", ["Smollm2", "..", "a b", "smollm2.0", "smollm2.1.2", "x" * 80, ".hidden", "smollm2.12345"]
)
def test_other_names_are_not_read(tmp_path: Path, name: str) -> None:
    leave(tmp_path / "in", name) if name != ".." else (tmp_path / "in").mkdir()
    assert len(read_result_files(tmp_path / "in")) == 0  # type: ignore[arg-type]


def test_what_was_running_and_where(tmp_path: Path) -> None:
    host = '{"gpu0": "NVIDIA H100 \\u202e", "cpus": 16, "nested": {"a": 1}, "list": [1]}'
    leave(tmp_path, "smollm2", running="suite.py::test_conversion[smollm2]\n\n", host=host)
    (only,) = read_attempts(tmp_path)
    assert only.running == ("test_conversion[smollm2]",)
    assert only.host == {"gpu0": "NVIDIA H100", "cpus": "16"}


@pytest.mark.parametrize("host", ["[1]", "{", "[" * 100_000, "\xff"])
def test_a_host_file_that_is_not_an_object_is_ignored(tmp_path: Path, host: str) -> None:
    leave(tmp_path, "smollm2", host=host)
    assert read_attempts(tmp_path)[0].host == {}


def test_a_missing_result_file_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "smollm2").mkdir()
    (only,) = read_attempts(tmp_path)
    assert (only.junit.problem, only.junit.missing) == ("no result file", True)


def test_links_are_never_followed(tmp_path: Path) -> None:
    secret = leave(tmp_path / "outside", "secret")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "smollm2").symlink_to(secret)
    assert len(read_result_files(inside)) == 0  # type: ignore[arg-type]
    (inside / "mixtral").mkdir()
    (inside / "mixtral" / "junit.xml").symlink_to(secret / "junit.xml")
    assert read_attempts(inside, "mixtral")[0].junit.missing


def test_a_link_in_place_of_the_one_file_is_not_followed(tmp_path: Path) -> None:
    leave(tmp_path, "outside")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "junit.xml").symlink_to(tmp_path / "outside" / "junit.xml")
    results = read_result_files(tmp_path / "in")
    assert isinstance(results, Attempt)
    assert results.junit.missing


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder of results"):
        read_result_files(tmp_path / "nowhere")


def test_files_are_read_only_when_asked_for(tmp_path: Path) -> None:
    leave(tmp_path, "smollm2")
    results = read_result_files(tmp_path)
    assert isinstance(results, ResultFolder)
    (tmp_path / "smollm2" / "junit.xml").unlink()
    assert "smollm2" in results
    assert results["smollm2"][0].junit.missing


def archive(path: Path, **members: bytes) -> zipfile.ZipFile:
    made = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    for name, content in members.items():
        made.writestr(name.replace("__", "."), content)
    return made


def test_an_archive_is_read_without_unpacking(tmp_path: Path) -> None:
    with archive(
        tmp_path / "hub-tests-smollm2.2.zip", junit__xml=junit(plan_of("smollm2")), host__json=b'{"a": "b"}'
    ) as made:
        made.writestr("../../evil", b"slip")
    (only,) = read_attempts(tmp_path)
    assert (only.number, len(only.junit.cases), only.host) == (2, 7, {"a": "b"})
    assert [path.name for path in tmp_path.iterdir()] == ["hub-tests-smollm2.2.zip"]


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    archive(tmp_path / "smollm2.zip", junit__xml=b"<a>" + b" " * 30_000_000).close()
    assert "unpacks to 30000003 bytes" in (read_attempts(tmp_path)[0].junit.problem or "")


def test_a_linked_member_is_not_read(tmp_path: Path) -> None:
    with archive(tmp_path / "smollm2.zip") as made:
        link = zipfile.ZipInfo("junit.xml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
    assert read_attempts(tmp_path)[0].junit.missing


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"x" * 5000])
def test_a_broken_archive_is_recorded(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "smollm2.zip").write_bytes(content)
    assert "unreadable archive" in (read_attempts(tmp_path)[0].junit.problem or "")


def test_a_damaged_member_is_recorded(tmp_path: Path) -> None:
    archive(tmp_path / "smollm2.zip", junit__xml=junit(plan_of("smollm2"))).close()
    content = bytearray((tmp_path / "smollm2.zip").read_bytes())
    content[200:260] = b"\x00" * 60
    (tmp_path / "smollm2.zip").write_bytes(content)
    assert "unreadable archive" in (read_attempts(tmp_path)[0].junit.problem or "")


def test_limits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        leave(tmp_path, name)
    assert len(read_result_files(tmp_path, InputLimits(files=2))) == 2  # type: ignore[arg-type]
    assert read_attempts(tmp_path, "a", InputLimits(xml_bytes=10))[0].junit.problem == "result file larger than 0 MiB"


def test_an_archive_with_too_many_members_is_not_read(tmp_path: Path) -> None:
    members = {f"m{number}.txt": b"" for number in range(5)}
    archive(tmp_path / "smollm2.1.zip", **{"junit.xml": junit(plan_of("smollm2")), **members}).close()
    assert read_attempts(tmp_path)[0].junit.problem is None
    assert read_attempts(tmp_path, limits=InputLimits(files=3))[0].junit.missing


def test_the_garbage_collector_is_on_again_after_a_pause() -> None:
    seen = []
    with suppress(ZeroDivisionError), pause_garbage_collection():
        seen.append(gc.isenabled())
        raise ZeroDivisionError
    assert seen == [False]
    assert gc.isenabled()
