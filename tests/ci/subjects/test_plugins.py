"""Adapters are found by entry point, by module and by file; what is wrong with one is said in one line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.subjects.plugins import GROUP, Plugin, find_plugin, list_plugin_names, load_offer
from ci.subjects.registry import find_adapter, find_offer, list_offers

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[3] / "examples"
TOY = f"{EXAMPLES / 'toy_adapter.py'}:ToySubject"
CODE = """
from hub_tests.subject import SubjectOffer
class Sub:
    offer = SubjectOffer("sub", "sub", ("llama",), (), protocol={protocol})
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the import path, like site-packages; modules that it gave are forgotten."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    find_plugin.cache_clear()
    yield tmp_path
    find_plugin.cache_clear()
    for name in set(sys.modules) - known:
        del sys.modules[name]


def install(
    place: Path, name: str, value: str, code: str = CODE.format(protocol=1), *, distribution: str = "d"
) -> None:
    (place / f"{name}_adapter.py").write_text(code)
    information = place / f"{distribution}-1.0.dist-info"
    information.mkdir(exist_ok=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
    importlib.invalidate_caches()


def test_an_installed_adapter_is_found_by_its_name(installed: Path) -> None:
    install(installed, "sub", "sub_adapter:Sub")
    assert list_plugin_names() == ("sub",)
    assert find_plugin("sub") == Plugin("sub_adapter:Sub", installed / "sub_adapter.py")
    assert find_offer("sub").formats == ("llama",)
    assert [name for name, _ in list_offers()] == ["fast_llm", "reference", "sub"]


def test_an_adapter_is_found_by_module_and_by_file(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(installed, "sub", "sub_adapter:Sub")
    assert find_plugin("sub_adapter:Sub") == find_plugin("sub")
    monkeypatch.chdir(installed)
    assert find_plugin("sub_adapter.py:Sub") == find_plugin("sub")
    assert find_adapter(TOY).offer.name == "toy"


def test_a_package_is_found_by_its_directory(installed: Path) -> None:
    (installed / "trainer" / "tests").mkdir(parents=True)
    (installed / "trainer" / "__init__.py").write_text("")
    (installed / "trainer" / "adapter.py").write_text(CODE.format(protocol=1))
    importlib.invalidate_caches()
    assert find_plugin("trainer.adapter:Sub") == Plugin("trainer.adapter:Sub", installed / "trainer")
    assert find_offer("trainer.adapter:Sub").name == "sub"


def test_a_name_that_two_distributions_claim_is_refused(installed: Path) -> None:
    install(installed, "sub", "sub_adapter:Sub")
    install(installed, "sub", "other:Sub", distribution="e")
    with pytest.raises(RequestError, match=r"two installed adapters are called 'sub': other:Sub, sub_adapter:Sub"):
        find_plugin("sub")


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        (
            "nothing_here:Sub",
            "",
            "no module 'nothing_here' is installed beside hub-tests; install the adapter, or name",
        ),
        ("no/such.py:Sub", "", "there is no file "),
        ("megatron", "", "unknown subject 'megatron'. Choose one of fast_llm, reference, "),
        (
            "sub_adapter:Sub",
            CODE.format(protocol=2),
            "speaks version 2 of the protocol, this hub-tests version 1: install",
        ),
        ("sub_adapter:Sub", "class Sub: pass", "has no class attribute `offer`, a hub_tests SubjectOffer"),
        ("sub_adapter:Sub", "raise OSError('no\\ngpu')", "cannot be loaded: OSError: no"),
        ("sub_adapter:Other", CODE.format(protocol=1), "cannot be loaded: AttributeError: "),
    ],
)
def test_what_is_no_adapter_is_said_in_one_line(installed: Path, name: str, code: str, said: str) -> None:
    if code:
        install(installed, "sub", "sub_adapter:Sub", code)
    with pytest.raises(RequestError, match=said.replace("(", r"\(")) as refused:
        find_offer(name)
    assert "\n" not in str(refused.value)
    assert "sub_adapter" not in sys.modules or "protocol" in said or "offer" in said or "AttributeError" in said


def test_the_module_alone_is_importable_not_what_lies_beside_it(installed: Path) -> None:
    place = installed / "elsewhere"
    place.mkdir()
    (place / "beside.py").write_text("")
    (place / "own.py").write_text("import beside\n")
    with pytest.raises(RequestError, match="No module named 'beside'"):
        load_offer(Plugin("own:Sub", place / "own.py"))
