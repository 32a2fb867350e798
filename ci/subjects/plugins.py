"""Finds adapters outside this package: by entry point, as `package.module:Class`, or as `PATH/file.py:Class`.

An installed adapter names itself under the entry point group `hub_tests.subjects`:
https://packaging.python.org/en/latest/specifications/entry-points/
Its module is imported here for its offer, so it is as trusted as hub-tests itself; the framework is imported by the
worker alone.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ci.errors import RequestError
from ci.subjects.offer import PROTOCOL, SubjectOffer

GROUP = "hub_tests.subjects"
_REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")
_FILE = re.compile(r"(?P<path>.+\.py):(?P<attribute>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Plugin:
    """An adapter's class as `module:attribute`, and the file or directory of its top-level module.

    Without a `location` the module is one of the worker's own environment: it is never imported here.
    """

    reference: str
    location: Path | None

    @property
    def module(self) -> str:
        """The module's dotted name."""
        return self.reference.partition(":")[0]

    def load(self) -> Any:
        """Import the module and return the adapter's class. Raises RequestError where it cannot be imported."""
        try:
            if self.location:
                expose_module(self.module.partition(".")[0], self.location)
            return getattr(import_module(self.module), self.reference.partition(":")[2])
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            where = f"{self.reference} in {self.location}" if self.location else self.reference
            raise RequestError(f"the adapter {where} cannot be loaded: {reason}") from None


def expose_module(name: str, location: Path) -> None:
    """Make one top-level module importable from its place, and nothing else that lies beside it."""
    if name in sys.modules:
        return
    package = location.is_dir()
    spec = spec_from_file_location(
        name,
        location / "__init__.py" if package else location,
        submodule_search_locations=[str(location)] if package else None,
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{location} is no module")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def list_plugin_names() -> tuple[str, ...]:
    """Return the names of all installed adapters."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


@cache
def find_plugin(name: str) -> Plugin | None:
    """Return the adapter of this name, None where there is none.

    Raises RequestError for a module or file that does not exist, and for a name that two distributions claim.
    """
    if file := _FILE.fullmatch(name):
        path = Path(file["path"]).absolute()
        if not path.is_file():
            raise RequestError(f"--subject {name}: there is no file {path}")
        return Plugin(f"{path.stem}:{file['attribute']}", path)
    points = entry_points(group=GROUP, name=name)
    if len({point.value for point in points}) > 1:
        raise RequestError(f"two installed adapters are called {name!r}: {', '.join(sorted(p.value for p in points))}")
    reference = next((point.value for point in points), name)
    if not _REFERENCE.fullmatch(reference):
        return None
    return Plugin(reference, _find_location(reference))


@cache
def load_offer(plugin: Plugin) -> SubjectOffer:
    """Return what an adapter offers: its class's attribute `offer`.

    Raises RequestError for an adapter without one, or one that was written for another version of the protocol.
    """
    offer = getattr(plugin.load(), "offer", None)
    if not isinstance(offer, SubjectOffer):
        raise RequestError(f"the adapter {plugin.reference} has no class attribute `offer`, a hub_tests SubjectOffer")
    if offer.protocol != PROTOCOL:
        raise RequestError(
            f"the adapter {plugin.reference} speaks version {offer.protocol} of the protocol, this hub-tests version "
            f"{PROTOCOL}: install versions of both that fit"
        )
    return offer


def _find_location(reference: str) -> Path:
    top = reference.partition(":")[0].partition(".")[0]
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise RequestError(
            f"--subject {reference}: no module {top!r} is installed beside hub-tests; install the adapter, or name its "
            "file: PATH/file.py:Class"
        )
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
