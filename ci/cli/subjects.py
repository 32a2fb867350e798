"""The verbs of subjects: `subject ls`, `subject check`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ci.cli import options
from ci.cli.help import HelpfulGroup

subject_app = typer.Typer(
    cls=HelpfulGroup, help="Look at what can be under test, and check an adapter.", no_args_is_help=True
)


@subject_app.command("ls")
def ls(as_json: options.JsonFlag = False) -> None:
    """List the subjects: those of this package and the installed adapters."""
    from ci.subjects.registry import list_offers
    from ci.terminal import make_offers_table

    offers = list_offers()
    if as_json:
        from ci.records import to_json

        print(to_json([offer for _, offer in offers], indent=2))
        return
    options.show(make_offers_table(offers))


@subject_app.command("describe")
def describe(
    name: Annotated[
        str,
        typer.Argument(
            help="an adapter: a name, package.module:Class or FILE.py:Class, the file's path below its checkout",
            metavar="NAME|module:Class|FILE:Class",
        ),
    ],
) -> None:
    """Print a description of an adapter as TOML, by which the workflow can use what it never imports."""
    from ci.errors import RequestError
    from ci.subjects.described import format_described, parse_described
    from ci.subjects.registry import find_adapter

    adapter = find_adapter(name)
    if adapter.plugin is None:
        raise RequestError(f"{name} is a subject of hub-tests: the workflow knows it by this name")
    text = format_described(adapter.offer, name if ".py:" in name else adapter.plugin.reference)
    parse_described(text, what=f"the description of {name}")
    print(text, end="")


@subject_app.command("check")
def check(
    name: Annotated[
        str,
        typer.Argument(
            help="a name, package.module:Class, PATH/file.py:Class or a description PATH/file.toml",
            metavar="NAME|module:Class|FILE",
        ),
    ],
    subject_python: Annotated[Path | None, typer.Option(help="Python interpreter that has the subject")] = None,
    subject_path: Annotated[
        list[Path] | None, typer.Option(help="directory for that interpreter's import path; may be repeated")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    as_json: options.JsonFlag = False,
) -> None:
    """Check an adapter on small generated models: protocol, forward, variants, refusals, and one planted bug."""
    from ci.conformance.checks import ConformanceCheck
    from ci.records import to_json
    from ci.subjects.open_subject import open_subject
    from ci.subjects.registry import find_offer
    from ci.subjects.sandbox import choose_isolation
    from ci.terminal import print_check

    paths, results = tuple(path.absolute() for path in subject_path or ()), []
    python = subject_python.absolute() if subject_python else None
    with TemporaryDirectory(prefix="hub-tests-check.") as workdir:
        checks = ConformanceCheck(
            offer=find_offer(name),
            open_with=lambda seconds: open_subject(
                name,
                python=python,
                path=paths,
                timeout=seconds,
                isolation=choose_isolation("auto"),
            ),
            workdir=Path(workdir),
            device=device,
        )
        for result in checks.run():
            results.append(result)
            if not as_json:
                print_check(result)
    if as_json:
        print(to_json(results, indent=2))
    raise typer.Exit(int(any(result.passed is False for result in results)))
