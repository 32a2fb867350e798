"""One model under test: its registry entry, the options of the run, and what follows from them alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.devices import default_device
from ci.evidence import NOT_ISOLATED
from ci.models import HubModel
from ci.phases import PhaseClock
from ci.run_options import RunOptions
from ci.settings import Settings
from ci.subjects.compile_cache import choose_compile_cache
from ci.subjects.registry import SubjectName, find_offer, shares_interpreter
from ci.subjects.sandbox import choose_isolation

if TYPE_CHECKING:
    from ci.subjects.compile_cache import CompileCache
    from ci.subjects.offer import SubjectOffer
    from ci.subjects.sandbox import Isolation


@dataclass(frozen=True)
class ModelRun:
    """What every step of one model is told; the steps write below `workdir` and count their time on `clock`."""

    model: HubModel
    options: RunOptions
    settings: Settings
    workdir: Path
    clock: PhaseClock = field(default_factory=PhaseClock)

    @property
    def subject(self) -> SubjectName:
        """What finds the subject again: its name, or the module or file of its adapter."""
        return self.options.subject_or_default()

    @cached_property
    def offer(self) -> SubjectOffer:
        """What the subject offers."""
        return find_offer(self.subject)

    @cached_property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device of every forward pass."""
        return self.options.device or default_device()

    @property
    def isolation(self) -> Isolation:
        """The sandbox of code that is not trusted, or why there is none."""
        return choose_isolation(self.options.isolation)

    @property
    def subject_python(self) -> Path | None:
        """The subject's interpreter: this one where a subject that is installed here runs in a sandbox."""
        sandboxed = self.isolation.applied and not self.offer.in_this_package
        return self.options.subject_python or (Path(sys.executable) if sandboxed else None)

    @property
    def compile_cache(self) -> CompileCache | None:
        """The code that earlier runs compiled; None where no directory for it is named."""
        root = self.options.compile_cache or self.settings.compile_cache
        return choose_compile_cache(root, fill=self.options.fill_compile_cache)

    def choose_log_file(self, program: str) -> Path | None:
        """Return the file for the output of a program that runs for this model; None where none is kept."""
        logs = self.options.subject_logs
        return logs / f"{self.model.name}-{program}.log" if logs else None

    def describe_isolation(self) -> str:
        """Say how the subject's code is kept apart from the judge: the sandbox, or why there is none."""
        if self.subject_python is None and self.offer.in_this_package:
            return "not needed: hub-tests' own code"
        if self.isolation.applied and shares_interpreter(self.subject, self.options.subject_python):
            return f"{NOT_ISOLATED}installed in hub-tests' own interpreter"
        return self.isolation.description if self.isolation.applied else f"{NOT_ISOLATED}{self.isolation.description}"
