"""A pull request that fills the judge's disk: a small file system of memory, which only root can mount."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.attacks.scene import find_failures, hash_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attacks.scene import Scene

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("attacks"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system"),
]
FILL = """
def fill(place, block=2**22):
    say("fills")
    number = 0
    while True:
        number += 1
        try:
            with open(f"{place}/{number}", "wb") as file:
                while True:
                    file.write(bytes(block))
        except OSError as error:
            if number < 3 or error.errno != errno.ENOSPC:
                say("refused:", error)
            time.sleep(0.2)
            if number > 50:
                return
"""
ATTACKS = {
    "while it is asked": """
        def before(name, request):
            if name == "convert":
                os.mkdir(request.target)
                fill(request.target)
    """,
    "after it has answered": """
        def after(name, request, answer):
            if name == "convert":
                place = Path(request.target).parent / "more"
                place.mkdir()
                threading.Thread(target=fill, args=(place,), daemon=True).start()
            return answer
    """,
    "after it has answered, in files without names": """
        def after(name, request, answer):
            if name == "convert":
                def fill_unnamed():
                    files = []
                    while len(files) < 50:
                        path = Path(request.target).parent / "more"
                        files.append(open(path, "wb"))
                        path.unlink()
                        try:
                            while True:
                                files[-1].write(bytes(2**22))
                        except OSError as error:
                            say("refused:", error)
                            time.sleep(0.2)

                threading.Thread(target=fill_unnamed, daemon=True).start()
                say("fills")
            return answer
    """,
    "with names instead of bytes": """
        def before(name, request):
            if name == "trace":
                place = Path(request.output).parent / "more"
                place.mkdir()
                say("fills")
                try:
                    for number in range(10**6):
                        (place / str(number)).touch()
                except OSError as error:
                    say("refused:", error)
    """,
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1.5 GB and 5000 names."""
    directory = tmp_path / "small"
    directory.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1536m,nr_inodes=5000,mode=1777", "tmpfs", str(directory)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_filling_the_disk_is_the_subjects_failure(name: str, scene: Scene, small_disk: Path) -> None:
    checkout = scene.write_subject(FILL + textwrap.dedent(ATTACKS[name]))
    before = hash_tree(*scene.protected)
    done, results = scene.run(checkout, TMPDIR=str(small_disk))
    assert len(scene.read_log()) >= 2, done.stdout + done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    assert results["verdict"] == "failed"
    failures = find_failures(results)
    failed = failures.get("test_conversion") or failures.get("test_forward_equivalence")
    assert failed in ("crash", "other", "numeric_mismatch"), failures
    assert "filled the disk" in json.dumps(results), "who filled it is said"
    assert hash_tree(*scene.protected) == before
    assert list(small_disk.iterdir()) == []
