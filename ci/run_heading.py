"""What a run says before anything is fetched: the subject, its version and commit, the device, the isolation.

Nothing of the subject is run for it: its version is read from the files beside its interpreter or in its checkout.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING

from ci.devices import count_gpus
from ci.errors import RequestError
from ci.report.escape import one_line
from ci.report.identities import label_subject
from ci.subjects.provenance import read_commit
from ci.subjects.registry import ADAPTERS, choose_default_subject, find_offer, is_importable, shares_interpreter
from ci.subjects.sandbox import choose_isolation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.run_options import RunOptions

GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""Device files without which torch sees no GPU, so that it need not be imported to ask it."""
NOT_A_FRAMEWORK = "hub-tests' own reference: this says nothing about a training framework"
_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']{1,40})["']""", re.MULTILINE)
_PIN = re.compile(r"@([0-9a-f]{7,40})$")


def check_default_subject(options: RunOptions, environ: Mapping[str, str], here: Path) -> None:
    """Raise RequestError where no subject is named, and a framework is meant but not importable."""
    if options.subject or options.subject_python or options.environment:
        return
    chosen = choose_default_subject(None)
    for name, adapter in ADAPTERS.items():
        if name == chosen:
            return
        sign = next(_find_signs(adapter.offer.package, environ, here), "")
        if sign:
            raise RequestError(
                f"{sign} points to {name}, which cannot be imported here: name its interpreter (--subject-python "
                f"ENV/bin/python --subject-path CHECKOUT, or --environment {name}), or write --subject {chosen}"
            )


def _find_signs(package: str, environ: Mapping[str, str], here: Path) -> Iterator[str]:
    """Yield what says that somebody means a framework: a variable that is set, or its checkout around or below."""
    prefixes = (f"{package.upper()}_", f"HUB_TESTS_{package.upper()}_")
    yield from (f"${one_line(name, 60)}" for name in sorted(environ) if name.startswith(prefixes) and environ[name])
    for directory in (here, *here.parents):
        if (directory / package / "__init__.py").is_file():
            yield f"the checkout {directory}"


def format_heading(options: RunOptions) -> str:
    """Format the first line: `fast_llm 0.3.0 1a2b3c4d5e6f on cuda, isolated by bubblewrap 0.8.0`."""
    subject = options.subject_or_default()
    commit = _find_commit(options)
    facts = " ".join(filter(None, [label_subject(subject), _find_version(options), commit[:12]]))
    own = find_offer(subject).in_this_package
    told = f" ({NOT_A_FRAMEWORK})" if own else ""
    return one_line(f"{facts}{told} on {find_device(options)}, {_describe_isolation(options, own=own)}", 400)


def find_device(options: RunOptions) -> str:
    """Return the device of the run; the driver or torch is asked only where a GPU can be."""
    if options.device:
        return options.device
    return "cuda" if any(Path(file).exists() for file in GPU_FILES) and count_gpus() else "cpu"


def _describe_isolation(options: RunOptions, *, own: bool) -> str:
    if own and options.subject_python is None and options.environment is None:
        return "isolation not needed"
    isolation = choose_isolation(options.isolation)
    if not isolation.applied:
        return f"NOT ISOLATED: {isolation.description}"
    if shares_interpreter(options.subject_or_default(), options.subject_python):
        return "NOT ISOLATED: installed in hub-tests' own interpreter"
    return f"isolated by {isolation.description}"


def _find_commit(options: RunOptions) -> str:
    """Find the commit: the pinned one of an address, else that of the checkout that is imported or built."""
    if options.subject_source and (pinned := _PIN.search(options.subject_source)):
        return pinned[1]
    checkouts = [*map(Path, filter(None, [options.subject_source])), *options.subject_path]
    found = (read_commit(path, {}) for path in checkouts if path.is_dir())
    return next((commit for commit in found if commit), "")


def _find_version(options: RunOptions) -> str:
    """Find the subject's version in its checkout, else among the distributions of its interpreter."""
    from ci import __version__

    offer = find_offer(options.subject_or_default())
    if offer.in_this_package:
        return __version__
    for root in [*options.subject_path, *map(Path, filter(None, [options.subject_source]))]:
        if found := _VERSION.search(_read_text(root / offer.package / "__init__.py")):
            return found[1]
    if options.subject_python is None and not is_importable(options.subject_or_default()):
        return ""
    if options.subject_python is None:
        return next((one.version for one in Distribution.discover(name=offer.package)), "")
    sites = options.subject_python.parent.parent.glob("lib/python3*/site-packages")
    return next((one.version for one in Distribution.discover(name=offer.package, path=[*map(str, sites)])), "")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:100_000]
    except OSError:
        return ""
