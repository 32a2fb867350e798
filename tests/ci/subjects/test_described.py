"""An adapter that hub-tests has a description of alone: read strictly, found by name, and loaded by a worker only."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError, SubjectError
from ci.subjects import described
from ci.subjects.base import Variant
from ci.subjects.described import (
    DescribedAdapter,
    announce_described,
    find_checkout_file,
    format_described,
    parse_described,
    read_described,
)
from ci.subjects.fast_llm.offer import OFFER as FAST_LLM
from ci.subjects.offer import SubjectOffer
from ci.subjects.open_subject import open_subject
from ci.subjects.registry import ADAPTERS, find_adapter, find_offer

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[3] / "examples"
TOY = """
adapter = "toy_adapter:ToySubject"
name = "toy"
package = "transformers"
formats = ["llama"]
converts = false
exports = false
gradients = false
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(described, "_ANNOUNCED", {})
    read_described.cache_clear()
    yield
    read_described.cache_clear()


def test_a_description_is_the_adapters_offer_and_its_class() -> None:
    offer = SubjectOffer("toy", "transformers", ("llama",), (), converts=False, exports=False, gradients=False)
    assert parse_described(TOY, what="toy.toml") == DescribedAdapter(offer, "toy_adapter:ToySubject")


def test_the_file_of_a_checkout_becomes_a_module() -> None:
    text = TOY.replace("toy_adapter:", "tools/hub/toy_adapter.py:")
    parsed = parse_described(text, what="toy.toml")
    assert (parsed.reference, parsed.checkout_file) == ("toy_adapter:ToySubject", "tools/hub/toy_adapter.py")


@pytest.mark.parametrize(
    "offer",
    [
        SubjectOffer("toy", "toy", ("llama",), ()),
        replace(FAST_LLM, name="theirs"),
        SubjectOffer(
            *("toy", "toy", ("llama", "mixtral"), (Variant("moe", "dropless", default=True, needs="cuda"),)),
            axis_formats={"moe": frozenset({"mixtral"})},
            conditional_needs={"moe=dropless": ("triton", "a mixture of experts")},
            layouts=("single", "tp2"),
        ),
    ],
)
def test_what_is_described_is_read_back(offer: SubjectOffer) -> None:
    parsed = parse_described(format_described(offer, "a.b:C"), what="x.toml")
    assert parsed == DescribedAdapter(offer, "a.b:C")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "toy"', "name = ", "toy.toml: not TOML: "),
        ("exports", "export", "unknown key 'export'; expected adapter, axis_formats, "),
        ("exports = false", "in_this_package = true", "unknown key 'in_this_package'"),
        ('name = "toy"', 'name = "../toy"', r"name '../toy': expected lower case"),
        ('name = "toy"', "", "toy.toml: name: "),
        ('"transformers"', '"a.b"', "package 'a.b': expected the name by which Python imports it"),
        ('["llama"]', '"llama"', "toy.toml: formats"),
        ('name = "toy"', 'name = "toy"\nprotocol = 2', "describes version 2 of the protocol, this hub-tests speaks"),
        ('adapter = "toy_adapter:ToySubject"', "", "adapter: expected package.module:Class"),
        ("toy_adapter:ToySubject", "toy_adapter", "adapter: expected package.module:Class"),
        ("toy_adapter:ToySubject", "toy adapter:ToySubject", "adapter: expected package.module:Class"),
        ("toy_adapter:ToySubject", "../toy_adapter.py:ToySubject", "expected a file below the subject's checkout"),
        ("toy_adapter:ToySubject", "/x/toy_adapter.py:ToySubject", "expected a file below the subject's checkout"),
    ],
)
def test_what_is_no_description_is_said(old: str, new: str, said: str) -> None:
    assert old in TOY
    with pytest.raises(RequestError, match=said.replace("(", r"\(")) as refused:
        parse_described(TOY.replace(old, new), what="toy.toml")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the description: No such file"):
        find_adapter(str(tmp_path / "toy.toml"))
    (tmp_path / "long.toml").write_text("#" * (described.MAX_BYTES + 1))
    with pytest.raises(RequestError, match="longer than 65536 bytes"):
        find_adapter(str(tmp_path / "long.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not TOML"):
        find_adapter(str(tmp_path / "binary.toml"))


def test_an_announced_adapter_is_found_by_its_name_and_never_imported(tmp_path: Path) -> None:
    text = TOY.replace("toy_adapter", "described_toy")
    with pytest.raises(RequestError, match="unknown subject 'toy'"):
        find_offer("toy")
    announce_described(parse_described(text, what="toy.toml"), ADAPTERS)
    assert find_offer("toy").formats == ("llama",)
    (tmp_path / "toy.toml").write_text(text)
    adapter = find_adapter(str(tmp_path / "toy.toml"))
    assert adapter.offer == find_offer("toy")
    assert adapter.plugin is not None
    assert adapter.plugin.location is None
    assert "described_toy" not in sys.modules


def test_a_described_adapter_is_no_subject_of_hub_tests() -> None:
    with pytest.raises(RequestError, match="called 'reference', as a subject of hub-tests"):
        announce_described(parse_described(TOY.replace('"toy"', '"reference"'), what="x"), ADAPTERS)
    assert find_adapter("reference").described is None


def test_the_worker_loads_it_from_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path/described_toy.py").write_text((EXAMPLES / "toy_adapter.py").read_text())
    (tmp_path / "toy.toml").write_text(TOY.replace("toy_adapter", "described_toy"))
    name = str(tmp_path / "toy.toml")
    with open_subject(name, python=Path(sys.executable), path=(tmp_path / "path",)) as subject:
        assert subject.describe().subject == "toy"
    assert "described_toy" not in sys.modules
    with open_subject(name, python=Path(sys.executable)) as subject, pytest.raises(SubjectError, match="described_toy"):
        subject.describe()


def test_the_file_of_a_checkout_is_plain_and_inside(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "tools").mkdir(parents=True)
    (tmp_path / "secret.py").write_text("")
    adapter = parse_described(TOY.replace("toy_adapter:", "tools/toy_adapter.py:"), what="x")
    said = r"has no file tools/toy_adapter\.py with the adapter"
    with pytest.raises(SubjectError, match=said):
        find_checkout_file(adapter, checkout)
    (checkout / "tools/toy_adapter.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(SubjectError, match=said):
        find_checkout_file(adapter, checkout)
    (checkout / "tools/toy_adapter.py").unlink()
    (checkout / "tools/toy_adapter.py").write_text("")
    assert find_checkout_file(adapter, checkout) == (checkout / "tools/toy_adapter.py").resolve()
