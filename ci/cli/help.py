"""What `-h` says beside each verb's own words: kinds of values as people name them, examples, and likely spellings."""

from __future__ import annotations

import textwrap
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from ci.spelling import suggest_name

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "hub-tests": (
        "hub-tests run smollm2",
        "hub-tests run @moe --device cuda --environment fast_llm --subject-source ../Fast-LLM",
        "hub-tests doctor",
    ),
    "models": ("hub-tests models", "hub-tests models --registry mine.toml --json"),
    "fetch": (
        "hub-tests fetch mixtral --layers 2",
        "hub-tests fetch org/name --slice vocab=4096,experts=8",
    ),
    "run": (
        "hub-tests run smollm2 --subject reference",
        "hub-tests run mixtral --environment fast_llm --subject-source ../Fast-LLM --deep",
        "hub-tests run 'mistral*' @moe --device cuda --subject-python ~/fast-llm/bin/python",
    ),
    "bisect": (
        "hub-tests bisect mixtral --good v0.3.0 --bad main --subject-source ../Fast-LLM --environment fast_llm",
        "hub-tests bisect mixtral --over transformers --good 5.20.0 --bad 5.23.0 --environment fast_llm",
        "hub-tests bisect mixtral --over hub --good 1a2b3c4 --bad main",
    ),
    "doctor": ("hub-tests doctor", "hub-tests doctor --gpus 8 --path /srv/hub-tests --strict"),
    "plan": ("hub-tests plan --bytes '@release'",),
    "cache prune": ("hub-tests cache prune --max-size 50GB --dry-run",),
    "env build": ("hub-tests env build fast_llm",),
    "env prune": ("hub-tests env prune --days 30",),
    "matrix": ("hub-tests matrix --baseline history --html pages",),
    "report": ("hub-tests report --plan out/plan.json --results out --out again",),
}
"""Command lines by verb, as somebody would type them."""

MAX_WIDTH = 120
MAX_LABEL = 28
"""Characters of a label that has its text beside it."""
MIN_TEXT = 36
"""Characters of a line that the text beside a label needs; else it stands below."""
LIBRARY_WORDS = ("Install ", "Show ")
NUMBERS = {"timeout": "SECONDS", "time-limit": "SECONDS", "patience": "SECONDS", "days": "DAYS"}


class HelpfulGroup(TyperGroup):
    """A group of verbs whose help fits any terminal, names kinds of values by words, and ends in examples."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the verb, with its help written here."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None and not isinstance(command, HelpfulGroup):
            command.format_help = lambda context, formatter: formatter.write(format_help(command, context))
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the group."""
        formatter.write(format_help(self, ctx))


def format_help(command: Any, context: Any, width: int | None = None) -> str:
    """Format the help of a verb or a group, wrapped between words at the terminal's width."""
    width = max(40, min(width or get_terminal_size((80, 24)).columns, MAX_WIDTH))
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = [f"Usage: {context.command_path} [OPTIONS]", *map(_name_argument, arguments)]
    words += ["COMMAND"] if isinstance(command, TyperGroup) else []
    parts = [
        _wrap(" ".join(words), width, "  "),
        _wrap(" ".join((command.help or "").split()), width),
        *_format_commands(command, context, width),
        _format_section("Arguments", [_describe(one, context) for one in arguments], width),
        _format_section("Options", [_describe(one, context) for one in _list_options(command, context)], width),
    ]
    if examples := EXAMPLES.get(context.command_path.removeprefix("hub-tests ")):
        parts.append("\n".join(["Examples:", *(_wrap_command(line, width) for line in examples)]))
    return "\n\n".join(filter(None, parts))


def _name_argument(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required else f"[{name}]"


def _list_options(command: Any, context: Any) -> list[Any]:
    options = [one for one in command.get_params(context) if one.param_type_name == "option"]
    return [one for one in options if not getattr(one, "hidden", False)]


def _format_commands(command: Any, context: Any, width: int) -> list[str]:
    """Format the verbs of a group, each panel as one section."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for name in command.list_commands(context) if isinstance(command, TyperGroup) else ():
        verb: Any = command.get_command(context, name)
        title = getattr(verb, "rich_help_panel", None)
        panels.setdefault(title if isinstance(title, str) else "Commands", []).append((name, _first_line(verb.help)))
    return [_format_section(title, rows, width) for title, rows in panels.items()]


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _format_section(title: str, rows: list[tuple[str, str]], width: int) -> str:
    """Format labels with their texts: beside each other where the label is short, else below it."""
    if not rows:
        return ""
    column = min(max(len(label) for label, _ in rows), MAX_LABEL) + 4
    column = column if width - column >= MIN_TEXT else 6
    lines = []
    for label, text in rows:
        first = f"  {label}".ljust(column)
        if len(first) > column or first[-2:].strip():
            lines.append(f"  {label}")
            first = " " * column
        lines.append(_wrap(first + text, width, " " * column))
    return "\n".join([f"{title}:", *lines])


def _describe(parameter: Any, context: Any) -> tuple[str, str]:
    """Return an option's names and value word, and its help with the default."""
    kind = parameter.metavar or name_kind(parameter, _read_type(parameter, context))
    text = " ".join(str(getattr(parameter, "help", "") or "").split())
    if parameter.param_type_name == "argument":
        return kind, text
    names = ", ".join(sorted(parameter.opts, key=len))
    default = parameter.default
    shown = default is not None and not isinstance(default, bool | list | tuple) and not callable(default)
    more = " [required]" if parameter.required else f" [default: {default}]" if shown and str(default) else ""
    if text.startswith(LIBRARY_WORDS):  # of typer's own options, whose sentences are no others' style
        text = f"{text[:1].lower()}{text[1:]}".rstrip(".")
    return f"{names} {kind}".rstrip(), text + more


def _wrap(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def _wrap_command(line: str, width: int) -> str:
    return " \\\n".join(
        textwrap.wrap(
            line,
            width - 2,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _read_type(parameter: Any, context: Any) -> str:
    """Return the library's own word for a type: `<path>`, `<int range>`, `[cpu|cuda]`."""
    if getattr(parameter, "type", None) is not None:  # older versions of typer
        choices = getattr(parameter.type, "choices", None)
        return f"[{'|'.join(map(str, choices))}]" if choices else str(parameter.type.name)
    return str(parameter.display_type(context) or "")


def name_kind(parameter: Any, type_name: str) -> str:
    """Return the word for a value: its choices, a number's unit, FILE or DIR, else the last word of its name."""
    name = str((getattr(parameter, "opts", None) or [parameter.name])[0]).lstrip("-").replace("_", "-")
    kind = type_name.strip("<>[]").lower()
    if getattr(parameter, "is_flag", False):
        return ""
    if "|" in kind:
        return type_name.strip("<>[]")
    if "int" in kind or "float" in kind:
        return NUMBERS.get(name, "N")
    if "path" in kind or "file" in kind:
        told = str(getattr(parameter, "help", "") or "").lower()
        return "DIR" if "director" in told or "checkout" in told else "FILE"
    return name.rpartition("-")[2].upper()


def improve_usage_error(usage: Any) -> None:
    """Let a wrong option's error suggest the one likely option, or none."""
    context = getattr(usage, "ctx", None)
    wrong = getattr(usage, "option_name", "")
    if not wrong or context is None:
        return
    known = [name for one in context.command.params for name in one.opts if name.startswith("--")]
    likely = suggest_name(wrong.lstrip("-"), [name.lstrip("-") for name in known]).replace("'", "'--", 1)
    usage.message = f"{usage.message}.{likely}"
    usage.possibilities = None


def complete_models(incomplete: str) -> list[str]:
    """Return the registry's names and groups that begin with what was typed."""
    from ci.models import REGISTRY, load_models

    models = load_models(REGISTRY)
    groups = sorted({f"@{group}" for model in models.values() for group in model.groups})
    return [word for word in (*models, *groups) if word.startswith(incomplete)]
