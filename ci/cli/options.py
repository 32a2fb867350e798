"""What several verbs share: options, what the environment says, and how an answer is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.github.context import Context
    from ci.github.job_outputs import FetchOutputs
    from ci.plan import Plan
    from ci.settings import Settings

Models = Annotated[list[str], typer.Argument(help="registry names, globs, @groups", metavar="MODEL…")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print the answer as JSON")]
Registry = Annotated[Path | None, typer.Option(help="another models.toml")]
Layers = Annotated[str | None, typer.Option(help="layers to keep: a number, or auto", metavar="N|auto")]
CacheDir = Annotated[Path | None, typer.Option("--cache", help="the store; default $HUB_TESTS_CACHE or the user cache")]


def environ(call: typer.Context) -> Mapping[str, str]:
    """The environment, which `main` read."""
    found: Mapping[str, str] = call.obj
    return found


def settings(call: typer.Context, cache: Path | None = None) -> Settings:
    """Where the Hub and the store are."""
    from ci.settings import from_environ

    return from_environ({**environ(call), **({"HUB_TESTS_CACHE": str(cache)} if cache else {})})


def context(call: typer.Context) -> Context:
    """What Actions says of this step."""
    from ci.github.context import read_context

    return read_context(environ(call))


def plan(call: typer.Context, path: Path | None = None) -> Plan:
    """The plan in a file, or the one that an earlier job packed into `$HUB_TESTS_PLAN`."""
    from ci.plan import Plan
    from ci.records import read_json

    if path is None:
        from ci.github.job_outputs import unpack_record

        packed = environ(call).get("HUB_TESTS_PLAN", "")
        if not packed:
            raise RequestError(
                "no plan: HUB_TESTS_PLAN is empty, did the plan job fail? `report` also takes --plan FILE"
            )
        return unpack_record(Plan, packed, what="HUB_TESTS_PLAN")
    try:
        return read_json(Plan, path.read_bytes(), what=str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot read the plan: {error.strerror}") from None


def delivery(call: typer.Context) -> FetchOutputs:
    """What the fetch job packed into `$HUB_TESTS_DELIVERY`; nothing where it never came to it."""
    from ci.github.job_outputs import FetchOutputs, unpack_record

    packed = environ(call).get("HUB_TESTS_DELIVERY", "")
    return unpack_record(FetchOutputs, packed, what="HUB_TESTS_DELIVERY") if packed else FetchOutputs({}, {})


def answer(record: object, line: str, *, as_json: bool) -> None:
    """The record as JSON, or one line about it."""
    from ci.records import to_json

    print(to_json(record, indent=2) if as_json else line)


def show(renderable: Any) -> None:
    """A table or a report of `rich`, as wide as the terminal."""
    from rich.console import Console

    Console().print(renderable)


def one_of(value: Any, known: tuple[str, ...], option: str) -> Any:
    """`value`, if it is None or one of `known`. Raises RequestError with a suggestion."""
    if value is not None and value not in known:
        from ci.models import suggestion

        raise RequestError(f"{option} {value}: expected {' or '.join(known)}.{suggestion(value, known)}")
    return value
