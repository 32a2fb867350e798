"""The model that stays loaded: asked for again it is there, another key or a release lets it go."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from ci.subjects.resident import Resident, content_key

if TYPE_CHECKING:
    from pathlib import Path


class Model:
    """Stands for something large."""

    def __init__(self) -> None:
        self.self = self  # a cycle, which only the collector frees


def test_the_same_key_loads_once() -> None:
    resident: Resident[Model] = Resident()
    first, seconds = resident.get(("a",), Model, device="cpu")
    assert seconds > 0
    assert resident.get(("a",), Model, device="cpu") == (first, 0.0)


def test_another_key_lets_go_before_it_loads() -> None:
    resident: Resident[Model] = Resident()
    gone = ref(resident.get(("a",), Model, device="cpu")[0])

    def load() -> Model:
        assert gone() is None
        return Model()

    resident.get(("b",), load, device="cpu")


def test_release_frees_cycles_too() -> None:
    resident: Resident[Model] = Resident()
    gone = ref(resident.get(("a",), Model, device="cpu")[0])
    resident.release()
    assert gone() is None


def test_a_directory_that_was_written_anew_has_another_key(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("one")
    before = content_key(str(tmp_path))
    (tmp_path / "weights").write_text("other")
    assert content_key(str(tmp_path)) != before
