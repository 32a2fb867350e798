"""`hub-tests` on a machine without GPU and time: everything is real but `run`, whose result a test has prepared.

$E2E_ROOT/suite/<entry>/{junit.xml,running.txt,host.json}   what the suite would leave
$E2E_ROOT/suite/<entry>/exit                                how it would end; a negative number is a signal
$E2E_ROOT/suite/<entry>/consumer                            the engine that must be asked for; empty for none
$E2E_ROOT/consumers.txt                                     written: the engine of each run, and its interpreter
$E2E_ROOT/subjects.txt                                      written: what each entry is tested against
$E2E_ROOT/compile-cache.txt                                 written: which entry fills or reads which compile cache
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

sys.path.insert(0, str(Path(__file__).parents[2]))  # not by PYTHONPATH: hub-tests would restart without it

from ci.__main__ import main


def run(words: list[str]) -> int:
    """Leave what was prepared for the entry, after the checks that only a real call would fail."""
    deep, fill = "--deep" in words, "--fill-compile-cache" in words
    entry, *rest = drop_flags(words)
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    if os.environ.get("HF_HUB_OFFLINE") != "1" or "HF_TOKEN" in os.environ or "GITHUB_TOKEN" in os.environ:
        raise SystemExit("the suite must be offline and have no token")
    for option in ("--registry", "--checkpoints"):
        if not Path(options[option]).is_file():
            raise SystemExit(f"{option} {options[option]}: no such file")
    check_interpreter(options)
    note_subject(options["--subject"])
    if options["--isolation"] != "required" or not (Path(options["--subject-source"]) / ".git").exists():
        raise SystemExit("the subject must be isolated, and built from its checkout")
    if cache := options.get("--compile-cache") or os.environ.get("HUB_TESTS_COMPILE_CACHE", ""):
        with (Path(os.environ["E2E_ROOT"]) / "compile-cache.txt").open("a") as told:
            found = "".join(f" and finds {path.name}" for path in sorted(Path(cache).glob("*.tar")))
            told.write(f"{entry} {'fills' if fill else 'reads'} {cache}{found}\n")
        if fill and "--compile-cache" in options:
            Path(cache).mkdir(exist_ok=True)
            (Path(cache) / f"{entry}.tar").write_text("compiled")
    elif fill:
        raise SystemExit("there is no compile cache to fill")
    folder = "upstream" if options.get("--environment", "").startswith("newest") else "suite"
    prepared = Path(os.environ["E2E_ROOT"]) / folder / entry
    if deep != (prepared / "deep").exists():
        raise SystemExit(f"--deep is {'' if deep else 'not '}given, the test has prepared the other")
    check_consumer(options, (prepared / "consumer").read_text())
    shutil.copytree(prepared, options["--report"], ignore=shutil.ignore_patterns("exit", "deep", "consumer"))
    (row,) = json.loads(Path(options["--checkpoints"]).read_text())
    name_checkpoint(Path(options["--report"]) / "junit.xml", row)
    code = int((prepared / "exit").read_text())
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def drop_flags(words: list[str]) -> list[str]:
    """Return the words without the flags; a refusal that the registry knows must not end a job as failed."""
    if "--accept-known-refusals" not in words:
        raise SystemExit("the workflow accepts no known refusal")
    return [word for word in words if word not in ("--deep", "--fill-compile-cache", "--accept-known-refusals")]


def note_subject(name: str) -> None:
    """Read the subject's offer as the real verb does, and note it."""
    from ci.subjects.registry import find_adapter

    adapter = find_adapter(name)
    loaded = adapter.plugin.reference if adapter.plugin else "hub-tests' own"
    with (Path(os.environ["E2E_ROOT"]) / "subjects.txt").open("a") as file:
        file.write(f"{adapter.offer.name} {loaded} converts={adapter.offer.converts}\n")


def check_interpreter(options: dict[str, str]) -> None:
    """A prepared interpreter that is there, or an environment's description."""
    from ci.environments.description import load_description

    if ("--environment" in options) == ("--subject-python" in options):
        raise SystemExit("expected an environment or an interpreter")
    if "--environment" in options:
        load_description(options["--environment"])
    elif not Path(options["--subject-python"]).is_file():
        raise SystemExit(f"--subject-python {options['--subject-python']}: no such file")


def check_consumer(options: dict[str, str], prepared: str) -> None:
    """The engine that the test has prepared, and its interpreter only together with it."""
    if options.get("--consumer", "") != prepared:
        raise SystemExit(f"--consumer {options.get('--consumer')}, the test has prepared {prepared or 'none'}")
    if "--consumer-python" in options and not prepared:
        raise SystemExit("--consumer-python without --consumer")
    with (Path(os.environ["E2E_ROOT"]) / "consumers.txt").open("a") as told:
        told.write(f"{prepared} {options.get('--consumer-python', '')}".strip() + "\n")


def build_environment(words: list[str]) -> int:
    """Check the description as the real verb does, and note what would be built: there is no index here."""
    from ci.environments.description import load_description
    from ci.environments.newest import format_description

    description = load_description(words[0])
    with (Path(os.environ["E2E_ROOT"]) / "environments.txt").open("a") as file:
        file.write(f"{description.name} {' '.join(description.requirements)} {' '.join(words[1:2])}".rstrip() + "\n")
    if "--newest" in words:
        Path(words[words.index("--newest") + 1]).write_text(format_description(description))
    return 0


def name_checkpoint(file: Path, row: dict[str, Any]) -> None:
    """Make the prepared evidence that of the fetched checkpoint, which no test knows beforehand."""
    try:
        tree = ET.parse(file)
    except (OSError, ET.ParseError):
        return  # a run that is prepared to leave no result file, or half of one
    for node in tree.iter("property"):
        with contextlib.suppress(ValueError):
            evidence = json.loads(node.get("value") or "")
            node.set("value", json.dumps({**evidence, **{key: row[key] for key in ("model_id", "revision", "layers")}}))
    tree.write(file)


if __name__ == "__main__":
    verbs = {("run",): run, ("env", "build"): build_environment}
    stand_in = next((verb for words, verb in verbs.items() if tuple(sys.argv[1:])[: len(words)] == words), None)
    sys.exit(stand_in(sys.argv[1 + (sys.argv[1] == "env") + 1 :]) if stand_in else main())
