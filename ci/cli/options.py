"""Parts that the verbs share: options, reading the environment, printing an answer."""

from __future__ import annotations

import inspect
from functools import wraps
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ci.cli.help import complete_models
from ci.errors import RequestError
from ci.run_arguments import OPTIONS, Option
from ci.run_options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.github.context import Context
    from ci.github.job_outputs import FetchOutputs
    from ci.plan import Plan
    from ci.settings import Settings

Models = Annotated[
    list[str],
    typer.Argument(
        help="registry names, patterns such as mistral*, or @groups", metavar="MODEL…", autocompletion=complete_models
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="print the answer as JSON")]
Registry = Annotated[Path | None, typer.Option(help="another models.toml")]
Layers = Annotated[
    str | None,
    typer.Option(
        help="layers to keep: a number, auto, or indices from 0 like 0,3; default: the registry's", metavar="N|auto|I,J"
    ),
]
SliceOption = Annotated[
    str | None,
    typer.Option(
        "--slice",
        help="keep the first V rows of the vocabulary, E experts; default: the registry's",
        metavar="vocab=V,experts=E",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache", help="directory of the store; default: $HUB_TESTS_CACHE, else the user's cache"),
]

StoreUrl = Annotated[
    str | None,
    typer.Option(help="remote store behind that directory, like s3://bucket/folder; default: $HUB_TESTS_STORE_URL"),
]


def environ(call: typer.Context) -> Mapping[str, str]:
    """Return the environment, which `main` read."""
    variables: Mapping[str, str] = call.obj
    return variables


def settings(call: typer.Context, cache: Path | None = None, store_url: str | None = None) -> Settings:
    """Read where the Hub and the store are."""
    from ci.settings import from_environ

    given = {"HUB_TESTS_CACHE": str(cache) if cache else None, "HUB_TESTS_STORE_URL": store_url}
    return from_environ({**environ(call), **{name: value for name, value in given.items() if value}})


def context(call: typer.Context) -> Context:
    """Read what GitHub Actions says about this step."""
    from ci.github.context import read_context

    return read_context(environ(call))


def plan(call: typer.Context, path: Path | None = None) -> Plan:
    """Read the plan from a file, or from `$HUB_TESTS_PLAN`, where an earlier job packed it."""
    from ci.plan import announce_adapter

    found = _read_plan(call, path)
    announce_adapter(found.adapter)
    return found


def _read_plan(call: typer.Context, path: Path | None) -> Plan:
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
    """Read what the fetch job packed into `$HUB_TESTS_DELIVERY`; empty where that job packed nothing."""
    from ci.github.job_outputs import FetchOutputs, unpack_record

    packed = environ(call).get("HUB_TESTS_DELIVERY", "")
    return unpack_record(FetchOutputs, packed, what="HUB_TESTS_DELIVERY") if packed else FetchOutputs({}, {})


def answer(record: object, line: str, *, as_json: bool) -> None:
    """Print the record as JSON, or one line about it."""
    from ci.records import to_json

    print(to_json(record, indent=2) if as_json else line)


def show(renderable: Any) -> None:
    """Print a table or a report of `rich`, as wide as the terminal; in a log, a command is one line."""
    from rich.console import Console

    console = Console()
    console.print(renderable, crop=console.is_terminal)


def takes_run_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of a run; it gets them as the record `run_options`."""
    hints = get_type_hints(verb, include_extras=True)
    options = [option for option in OPTIONS if option.cli]

    @wraps(verb)
    def command(**values: Any) -> None:
        run_options = RunOptions(**{option.name: option.convert(values.pop(option.name)) for option in options})
        verb(**values, run_options=run_options)

    parameters = []
    for name, parameter in inspect.signature(verb).parameters.items():
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])]
        parameters += [_typer_parameter(option) for option in options] if name == "run_options" else own
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__  # typer must see the signature above
    return command


def _typer_parameter(option: Option) -> inspect.Parameter:
    kind: Any = GenericAlias(list, (option.value_type,)) if option.repeated else option.value_type
    declared = option.declared
    names = (option.cli, declared.short) if declared.short else (option.cli,)
    metavar = declared.metavar or "|".join(option.choices) or None
    about = typer.Option(*names, help=declared.help, min=declared.minimum, metavar=metavar)
    default = option.default or (False if option.value_type is bool else None)
    annotation: Any = Annotated[kind if default is not None else kind | None, about]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
