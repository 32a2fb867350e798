"""An adapter that hub-tests itself never imports: a TOML file says what it offers, a worker alone loads it.

The workflow's trusted jobs read the file from the default branch; the class that it names is the subject's code, in
the subject's environment or checkout, and runs in the sandbox only. What the file promises is compared with what the
adapter then answers.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError, SubjectError
from ci.records import read_dict, to_dict
from ci.subjects.offer import PROTOCOL, SubjectOffer

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIX = ".toml"
MAX_BYTES = 64 * 1024
"""Of the file: it travels in the plan, from job to job."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MODULE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_REFERENCE = re.compile(rf"{_MODULE}:[A-Za-z_]\w*")
_FILE = re.compile(r"(?P<path>[\w./-]+/)?(?P<module>[A-Za-z_]\w*)\.py:(?P<attribute>[A-Za-z_]\w*)")
_OWN = ("in_this_package",)
"""What only a subject of hub-tests itself may say."""


@dataclass(frozen=True)
class DescribedAdapter:
    """What a file says: the adapter's offer, its class as `module:Class`, and the file of a checkout that has it.

    `checkout_file` is None where the module is installed in the subject's environment, or a part of the subject.
    """

    offer: SubjectOffer
    reference: str
    checkout_file: str | None = None


@cache
def read_described(path: Path) -> DescribedAdapter:
    """Read a file. Raises RequestError for what is no description of an adapter."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"{path}: longer than {MAX_BYTES} bytes: not a description of an adapter")
        return parse_described(path.read_text(encoding="utf-8"), what=str(path))
    except OSError as error:
        raise RequestError(f"--subject {path}: cannot read the description: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not TOML: {error}") from None


def parse_described(text: str, *, what: str) -> DescribedAdapter:
    """Parse a description; `what` names the text. Raises RequestError for an unknown key, a wrong value or version."""
    import tomllib  # not in each interpreter that a worker may have

    try:
        table = {key.replace("-", "_"): value for key, value in tomllib.loads(text).items()}
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{what}: not TOML: {error}") from None
    adapter = table.pop("adapter", None)
    known = {field.name for field in fields(SubjectOffer)} - set(_OWN)
    if unknown := sorted(set(table) - known):
        raise RequestError(f"{what}: unknown key '{unknown[0][:60]}'; expected adapter, {', '.join(sorted(known))}")
    offer = read_dict(SubjectOffer, {"variants": (), **table}, what=what)
    _check(offer, what)
    return DescribedAdapter(offer, *_read_adapter(adapter, what))


def _check(offer: SubjectOffer, what: str) -> None:
    if not NAME.fullmatch(offer.name):
        raise RequestError(f"{what}: name '{offer.name[:80]}': expected lower case, digits, - and _")
    if not offer.package.isidentifier():
        raise RequestError(f"{what}: package '{offer.package[:80]}': expected the name by which Python imports it")
    if offer.protocol != PROTOCOL:
        raise RequestError(
            f"{what}: describes version {offer.protocol} of the protocol, this hub-tests speaks version {PROTOCOL}: "
            "install versions of both that fit"
        )


def _read_adapter(adapter: Any, what: str) -> tuple[str, str | None]:
    """Return the class as `module:Class`, and the file of the checkout where one is named."""
    if isinstance(adapter, str) and _REFERENCE.fullmatch(adapter):
        return adapter, None
    match = _FILE.fullmatch(adapter) if isinstance(adapter, str) else None
    if match is None:
        raise RequestError(
            f"{what}: adapter: expected package.module:Class, or FILE.py:Class of the subject's checkout"
        )
    file = PurePosixPath(match[0].rpartition(":")[0])
    if file.is_absolute() or ".." in file.parts:
        raise RequestError(f"{what}: adapter '{adapter[:80]}': expected a file below the subject's checkout")
    return f"{match['module']}:{match['attribute']}", str(file)


def find_checkout_file(described: DescribedAdapter, checkout: Path) -> Path:
    """Return the adapter's file in a checkout. Raises SubjectError where it has none, or a link that leads out."""
    found = (checkout / (described.checkout_file or "")).resolve()
    if not found.is_file() or not found.is_relative_to(checkout.resolve()):
        raise SubjectError(f"the subject's checkout has no file {described.checkout_file} with the adapter")
    return found


def format_described(offer: SubjectOffer, adapter: str) -> str:
    """Format a description as TOML; what has its default is left out."""
    values: dict[str, Any] = {"adapter": adapter}
    for field in fields(SubjectOffer):
        value = getattr(offer, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in _OWN and (value != default or field.name == "protocol"):
            values[field.name] = value
    return "".join(f"{key} = {_format_value(value)}\n" for key, value in values.items())


def _format_value(value: Any) -> str:
    """Format a value of an offer: JSON's scalars are TOML's, and what is None is left out."""
    if isinstance(value, frozenset | set):
        value = sorted(value)
    if isinstance(value, tuple | list):
        items = [_format_value(item) for item in value]
        inner = ",\n    ".join(items)
        return f"[\n    {inner},\n]" if len(", ".join(items)) > 90 else f"[{', '.join(items)}]"
    if hasattr(value, "__dataclass_fields__"):
        value = {key: one for key, one in to_dict(value).items() if one not in (None, False)}
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_format_key(key)} = {_format_value(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def _format_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


_ANNOUNCED: dict[str, DescribedAdapter] = {}


def announce_described(described: DescribedAdapter, own: Mapping[str, Any]) -> None:
    """Make an adapter findable by the name of its offer, for this process. Raises RequestError for a name of `own`."""
    name = described.offer.name
    if name in own:
        raise RequestError(f"the described adapter is called {name!r}, as a subject of hub-tests: give it another name")
    _ANNOUNCED[name] = described


def find_announced(name: str) -> DescribedAdapter | None:
    """Return the adapter of this name that was announced, None where none was."""
    return _ANNOUNCED.get(name)
