"""The options of a run as words of a command line: of `hub-tests run`, and of the suite's pytest."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from ci.errors import RequestError
from ci.run_options import SAME, Declaration, RunOptions
from ci.spelling import suggest_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Option:
    """One option with everything that its field says. `value_type` is the type of one value."""

    name: str
    default: Any
    cli: str | None
    pytest: str | None
    value_type: type
    repeated: bool
    choices: tuple[str, ...]
    declared: Declaration

    def convert(self, value: Any) -> Any:
        """Return the record's value for what the command line gave. Raises RequestError for a wrong word.

        Paths become absolute, because the suite runs in another directory. Links stay: the interpreter of a virtual
        environment is one.
        """
        if self.repeated:
            return tuple(path.absolute() for path in value or ())
        if isinstance(value, Path):
            return value.absolute()
        if value is not None and self.declared.parse:
            return self.declared.parse(value)
        if value is not None and self.choices and value not in self.choices:
            expected = " or ".join(self.choices)
            raise RequestError(f"{self.cli} {value}: expected {expected}.{suggest_name(value, self.choices)}")
        return value

    def format(self, value: Any) -> list[str]:
        """Return the words of a command line that set this option to `value`."""
        name = self.pytest or self.cli
        if value is None or value is False:
            return []
        if value is True:
            return [str(name)]
        if isinstance(value, tuple) and not self.repeated:
            return [f"{name}={','.join(map(str, value))}"]
        return [f"{name}={item}" for item in (value if self.repeated else [value])]

    def pytest_keywords(self) -> dict[str, Any]:
        """Return the keyword arguments for pytest's `addoption`."""
        if self.value_type is bool:
            return {"action": "store_true", "help": self.declared.help}
        keywords: dict[str, Any] = {"default": self.default, "help": self.declared.help}
        if self.choices:
            return {**keywords, "choices": self.choices}
        if self.repeated:
            keywords |= {"action": "append", "default": []}
        return {**keywords, "type": _pytest_parser(self.declared.parse) if self.declared.parse else self.value_type}


def _pytest_parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap a parser so that argparse prints its message."""

    def parse_for_pytest(text: str) -> Any:
        try:
            return parse(text)
        except RequestError as wrong:
            raise argparse.ArgumentTypeError(str(wrong).rpartition(f"{text}: ")[2]) from None

    return parse_for_pytest


def _make_option(name: str, default: Any, hint: Any) -> Option:
    annotated, declared = get_args(hint)
    repeated = get_origin(annotated) is tuple
    parts = () if get_origin(annotated) is Literal else get_args(annotated)
    kinds = [kind for kind in parts if kind not in (NoneType, Ellipsis)] or [annotated]
    choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
    cli, pytest = (f"--{name.replace('_', '-')}" if word == SAME else word for word in (declared.cli, declared.pytest))
    value_type = str if choices or declared.parse else kinds[0]
    return Option(name, default, cli, pytest, value_type, repeated, choices, declared)


def _read_declarations() -> tuple[Option, ...]:
    hints = get_type_hints(RunOptions, include_extras=True)
    return tuple(_make_option(field.name, field.default, hints[field.name]) for field in fields(RunOptions))


OPTIONS = _read_declarations()


def add_pytest_options(addoption: Callable[..., object]) -> None:
    """Declare the suite's options to pytest."""
    for option in OPTIONS:
        if option.pytest:
            addoption(option.pytest, **option.pytest_keywords())


def read_pytest_options(getoption: Callable[[str], Any]) -> RunOptions:
    """Return the options that pytest was called with."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.pytest:
            value = getoption(option.pytest)
            values[option.name] = tuple(value) if option.repeated else value
    return RunOptions(**values)


def format_arguments(options: RunOptions, chosen: Iterable[Option]) -> list[str]:
    """Return the `chosen` ones of `options` as words of a command line."""
    return [word for option in chosen for word in option.format(getattr(options, option.name))]


def make_pytest_arguments(options: RunOptions) -> list[str]:
    """Return the part of the suite's command line that these options make."""
    return format_arguments(options, (option for option in OPTIONS if option.pytest))


def make_reproduction_arguments(options: RunOptions, *, leave_out: Iterable[str] = ()) -> list[str]:
    """Return the words for `hub-tests run` that the same test needs to run alike."""
    known = frozenset(leave_out)
    return format_arguments(options, (o for o in OPTIONS if o.declared.reproduces and o.name not in known))


def make_cli_arguments(options: RunOptions) -> list[str]:
    """Return the words for `hub-tests run` that set everything that is not the default."""
    chosen = (replace(one, pytest=one.cli) for one in OPTIONS if one.cli and getattr(options, one.name) != one.default)
    return format_arguments(options, chosen)


def make_pytest_reproduction_arguments(options: RunOptions) -> list[str]:
    """Return the same words for pytest, which builds no subject: of a built one they name the interpreter and path."""
    return format_arguments(options, (option for option in OPTIONS if option.declared.reproduces and option.pytest))
