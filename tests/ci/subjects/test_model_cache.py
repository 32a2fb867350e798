"""Models that stay loaded: asked for again they are there; one too many, one too large, or a release lets them go."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

import pytest

from ci.subjects.model_cache import ModelCache, checkpoint_key

if TYPE_CHECKING:
    from pathlib import Path


class Model:
    """Stands for something large."""

    def __init__(self) -> None:
        self.self = self  # a cycle, which only the collector frees


def test_the_same_key_loads_once() -> None:
    cache: ModelCache[Model] = ModelCache()
    first, seconds = cache.get(("a",), Model, device="cpu")
    assert seconds > 0
    assert cache.get(("a",), Model, device="cpu") == (first, 0.0)


def test_several_stay_while_there_is_room_for_them() -> None:
    cache: ModelCache[Model] = ModelCache(2)
    first, _ = cache.get(("a",), Model, device="cpu", size=1)
    second, _ = cache.get(("b",), Model, device="cpu", size=1)
    assert cache.get(("a",), Model, device="cpu") == (first, 0.0)
    assert cache.get(("b",), Model, device="cpu") == (second, 0.0)


@pytest.mark.parametrize(("most", "size"), [(1, 0), (2, 1 << 60)], ids=["no more wanted", "no room"])
def test_what_does_not_stay_goes_before_the_next_one_loads(most: int, size: int) -> None:
    cache: ModelCache[Model] = ModelCache(most)
    gone = ref(cache.get(("a",), Model, device="cpu")[0])

    def load() -> Model:
        assert gone() is None
        return Model()

    cache.get(("b",), load, device="cpu", size=size)


def test_release_frees_cycles_too() -> None:
    cache: ModelCache[Model] = ModelCache()
    gone = ref(cache.get(("a",), Model, device="cpu")[0])
    cache.release()
    assert gone() is None


def test_a_directory_that_was_written_anew_has_another_key(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("one")
    before = checkpoint_key(str(tmp_path))
    (tmp_path / "weights").write_text("other")
    assert checkpoint_key(str(tmp_path)) != before
