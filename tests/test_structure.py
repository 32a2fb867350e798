"""The structure of the code: no import circles, and a test file for each module."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import LONG_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parents[1]
PACKAGES = {"ci": ROOT / "ci", "hub_runner": ROOT / "runner-setup" / "hub_runner"}

WITHOUT_TEST_FILE: dict[str, str] = {
    "ci/consumers/base.py": "the protocol and its records, without code; each engine's tests use them",
    "ci/errors.py": "exception classes without code; each is tested where it is raised",
    "ci/report/limits.py": "numbers alone; each limit is tested where it cuts",
    "ci/subjects/base.py": "the protocol and its records, without code; each adapter's tests use them",
}
"""Modules that need no test file of their own, each with its reason."""

TWO_WAY_ROOMS: dict[tuple[str, str], str] = {
    ("doctor", "environments"): "the doctor looks for bases and uv; a base asks the doctor's probes for its tools",
}
"""Rooms that need each other, each pair with its reason: a room that stands alone can be read alone."""


def find_modules(package: Path) -> dict[str, Path]:
    """Return a package's files by module name; a package itself is its `__init__.py`."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(name: str, path: Path, modules: Collection[str]) -> set[str]:
    """Return those of `modules` that a file imports, wherever in the file.

    `from a import b` imports the module a.b where there is one, else a name from the module a.
    """
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            named = {f"{source}.{alias.name}" for alias in node.names}
            names |= {part if part in modules else source for part in named}
    return names & set(modules) - {name}


def find_circle(package: Path) -> list[str]:
    """Return the modules of one import circle, empty where there is none.

    An import inside a function, or for type checking only, counts: two such modules cannot be understood apart.
    """
    modules = find_modules(package)
    graph = {name: read_imports(name, path, modules) for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def find_two_way_rooms(package: Path) -> set[tuple[str, str]]:
    """Return the pairs of rooms that import each other: a room is a subpackage, or a module beside them."""
    modules, needs = find_modules(package), set()
    for name, path in modules.items():
        rooms = {module.split(".")[1] for module in read_imports(name, path, modules) if "." in module}
        needs |= {(name.split(".")[1], room) for room in rooms if "." in name}
    return {(one, other) for one, other in needs if one < other and (other, one) in needs}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_through_others(package: str) -> None:
    assert find_circle(PACKAGES[package]) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import sample.a",
        "from sample import a",
        "from sample.a import x",
        "from . import a",
        "from .a import x",
        "def late():\n    from sample.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sample.a import x",
    ],
)
def test_a_planted_circle_is_found(planted: str, tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from sample import b\nx = 1\n")
    (package / "b.py").write_text("import sample.c\n")
    (package / "c.py").write_text("x = 1\n")
    assert find_circle(package) == []
    (package / "c.py").write_text(f"{planted}\n")
    assert set(find_circle(package)) == {"sample.a", "sample.b", "sample.c"}


def test_a_circle_through_a_package_is_found(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "__init__.py").write_text("from sample.a import x\n")
    (package / "a.py").write_text("from sample import y\nx = 1\n")
    assert set(find_circle(package)) == {"sample", "sample.a"}


def test_no_two_rooms_need_each_other() -> None:
    assert find_two_way_rooms(PACKAGES["ci"]) == set(TWO_WAY_ROOMS)


def test_a_planted_pair_of_rooms_is_found(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    for name, code in {"a/x": "from sample.b import y", "a/z": "", "b/y": "", "b/w": "import sample.a.z"}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(f"{code}\n")
    assert find_circle(package) == []
    assert find_two_way_rooms(package) == {("a", "b")}


def find_mirror(module: Path) -> Path:
    """Return where the tests of a module belong: `ci/x/y.py` has `tests/ci/x/test_y.py`."""
    relative = module.relative_to(ROOT)
    return ROOT / "tests" / relative.with_name(f"test_{relative.stem.strip('_')}.py")


def test_each_module_has_a_test_file() -> None:
    modules = [path for path in find_modules(PACKAGES["ci"]).values() if path.stem != "__init__"]
    missing = {path.relative_to(ROOT).as_posix() for path in modules if not find_mirror(path).exists()}
    assert sorted(missing - set(WITHOUT_TEST_FILE)) == []
    assert set(WITHOUT_TEST_FILE) <= missing, "an exception for a module that is gone, or that has a test file"


def test_the_folders_of_long_tests_are_there() -> None:
    assert [folder for folder in LONG_FOLDERS if not any(folder.glob("test_*.py"))] == []
