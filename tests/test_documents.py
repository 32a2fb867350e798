"""What the documents say of the code, compared with the code."""

import re
import tomllib
from dataclasses import MISSING, fields
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks import report, startup
from benchmarks.mutation.catalogue import catalogue, deep_catalogue
from ci import __main__ as cli
from ci import errors
from ci.environments.description import EnvironmentDescription, load_description, shipped_descriptions
from ci.models import load_models
from ci.report.labels import CLASSES

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
RESULTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/*.md"))
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "runner-setup/README.md"),
    *PAGES,
    *RESULTS,
)
README_WORDS = 1500
SERVICE = ("hub-tests.yml", "hub-tests-comment.yml")


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def workflow(name: str) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(text(f".github/workflows/{name}"))
    return loaded


def table(document: str, first_column: str) -> list[dict[str, str]]:
    """The rows, by column, of the table whose first column has this name."""
    (block,) = re.findall(rf"^\| {first_column} \|.*(?:\n\|.*)*", text(document), re.MULTILINE)
    names, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


# The README is short, and leads to everything else.


def test_the_readme_is_for_the_first_five_minutes() -> None:
    assert len(text("README.md").split()) <= README_WORDS


def test_the_readme_shows_a_real_output_and_the_comment_before_anything_is_installed() -> None:
    start = text("README.md").split("## Use it on your machine")[0]
    assert "](docs/pictures/demo.svg)" in start
    assert "$ make demo" in unescape(text("docs/pictures/demo.svg")).replace("\xa0", " ")
    assert "](docs/comment.png)" in start


def test_the_readme_names_every_page() -> None:
    assert not [page for page in PAGES if page not in text("README.md")]


# Names and links.


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text(document)):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_of_this_repository_exist(document: str) -> None:
    told = re.findall(r"`((?:ci|tests|benchmarks|runner-setup|\.github)/[\w/.-]*)`", text(document))
    assert not [path for path in told if not (ROOT / path).exists() and path != CALLER]


CALLER = ".github/workflows/hub-tests.yml"
"""The file of the same name in the repository that adopts the service."""


def test_this_repositorys_owner_is_a_placeholder_everywhere() -> None:
    templates = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(".github/ISSUE_TEMPLATE/*")]
    for name in (*DOCUMENTS, "pyproject.toml", *templates):
        owners = re.findall(r"(?:github\.com/|uses: )([\w-]+)/hub-tests\b", text(name))
        assert set(owners) <= {"OWNER"}, name
    assert set(re.findall(r"@(\S+)", text(".github/CODEOWNERS"))) == {"OWNER"}


# Commands.


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_the_options_that_are_told(document: str) -> None:
    root: Any = typer.main.get_command(cli.app)
    for line in re.findall(r"(?<![\w/-])hub-tests ([a-z][^`#\n)]*)", text(document)):
        words = line.split()
        if words[0] not in root.commands:
            continue  # prose: "hub-tests is the CI service"
        command = root.commands[words[0]]
        if words[0] in ("cache", "env", "subject"):
            command = command.commands[words[1]]
        told = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert told <= options(command), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_code_are_verbs(document: str) -> None:
    """In a code block or in backticks, `hub-tests` is followed by a verb or an option of the program."""
    root: Any = typer.main.get_command(cli.app)
    code = [
        *re.findall(r"```(?:bash|text)\n(.*?)```", text(document), re.DOTALL),
        *re.findall(r"`(hub-tests [^`]*)`", text(document)),
    ]
    told = {verb for block in code for verb in re.findall(r"^(?:\$ )?hub-tests (\S+)", block, re.MULTILINE)}
    assert {verb for verb in told if not verb.startswith("-")} <= {*root.commands, "…"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_has_the_targets_that_are_told(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text(document), re.MULTILINE)) <= targets


def test_pytest_finds_the_tests_that_are_told() -> None:
    suite = text("tests/integration/test_hub_integration.py")
    for document in DOCUMENTS:
        for name in re.findall(r"pytest .*?(test_\w+)(?!\w|\.py)", text(document)):
            assert f"def {name}(" in suite or (ROOT / "tests/integration" / f"{name}.py").exists(), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_variables_are_read_by_the_code(document: str) -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("ci/**/*.py"), *ROOT.glob("tests/**/*.py")]
    )
    sources += "".join(text(f".github/workflows/{name}") for name in SERVICE)
    assert not [name for name in re.findall(r"`(HUB_TESTS?_\w+)`", text(document)) if name not in sources]


# The guide to the service.


def test_the_inputs_of_the_service_are_as_told() -> None:
    inputs = workflow("hub-tests.yml")[True]["workflow_call"]["inputs"]
    for row in table("docs/adopt.md", "input"):
        names = re.findall(r"`([^`]+)`", row["input"])
        defaults = [inputs[name]["default"] for name in names]
        assert re.findall(r"`([^`]+)`", row["default"]) == [default for default in defaults if default != ""]


def granted(words: str) -> dict[str, str]:
    """What a cell says of a job's permissions, like "actions: read; checks, statuses: write"."""
    plain = re.sub(r" \([^)]*\)", "", words)
    pairs = re.findall(r"((?:[a-z-]+, )*[a-z-]+): (read|write)", plain)
    return {scope: level for scopes, level in pairs for scope in scopes.split(", ")}


@pytest.mark.parametrize(
    ("document", "column"), [("docs/adopt.md", "permissions"), ("docs/security.md", "token permissions")]
)
def test_each_job_takes_the_permissions_that_are_told(document: str, column: str) -> None:
    jobs = {name: job for file in SERVICE for name, job in workflow(file)["jobs"].items() if "uses" not in job}
    rows = {name: row for row in table(document, "job") for name in re.sub(r" \(.*\)", "", row["job"]).split(", ")}
    assert set(rows) == set(jobs)
    for name, job in jobs.items():
        assert granted(rows[name][column]) == (job["permissions"] or {}), name
        used = sorted(set(re.findall(r"secrets\.(\w+)", str(job))))
        secrets = ", ".join(f"`{secret}`" for secret in used) or "none"
        assert rows[name]["secrets"].strip("*") == secrets, name


# Tables that repeat what the code says.


def test_the_table_of_dependencies_is_what_is_declared() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| (.+?) \|$", text("docs/dependencies.md"), re.MULTILINE)
    told = {
        (name, extra)
        for names, extras in rows[1:]
        for name in names.split(", ")
        for extra in extras.replace("`", "").split(", ")
    }
    project = tomllib.loads(text("pyproject.toml"))["project"]
    declared = {"base": project["dependencies"], **project["optional-dependencies"]}
    assert told == {(re.split("[<>=]", word)[0], extra) for extra, words in declared.items() for word in words}


def test_the_keys_of_an_environments_description_are_as_told() -> None:
    told = {row["key"].strip("`"): row["default"] for row in table("docs/environments.md", "key")}
    declared = {field.name.replace("_", "-"): field for field in fields(EnvironmentDescription)}
    assert list(told) == list(declared)
    for key, field in declared.items():
        if field.default is not MISSING and field.default not in ("", ()):
            assert told[key].strip("`") == field.default, key


def test_an_environment_and_an_entry_that_are_shown_are_valid(tmp_path: Path) -> None:
    own, entry, *descriptions = re.findall(r"```toml\n(.*?)```", text("docs/environments.md"), re.DOTALL)
    assert len(descriptions) == 2
    for shown in descriptions:
        (tmp_path / "shown.toml").write_text(shown, encoding="utf-8")
        assert load_description(str(tmp_path / "shown.toml")).install == "editable"
    (tmp_path / "models.toml").write_text(entry, encoding="utf-8")
    assert load_models(tmp_path / "models.toml")["my-model"].code_revision
    (refusal,) = re.findall(r"```toml\n(.*?)```", text("docs/operations.md"), re.DOTALL)
    keys = f'[smollm2]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\n{own}\n{refusal}'
    (tmp_path / "models.toml").write_text(keys, encoding="utf-8")
    model = load_models(tmp_path / "models.toml")["smollm2"]
    assert model.find_environment("fast_llm") in shipped_descriptions()
    assert model.known_refusals == load_models()["smollm2"].known_refusals


def test_the_targets_of_the_figures_are_those_of_the_benchmarks() -> None:
    targets = {row["figure"]: row["target"] for row in table("docs/figures.md", "figure")}
    for what, target in (
        ("--help", startup.TARGET),
        ("plan of", report.PLAN_TARGET),
        ("report of", report.REPORT_TARGET),
    ):
        (told,) = [bound for figure, bound in targets.items() if what in figure and "÷" in figure]
        assert told == f"≤ {target:g}"


def test_the_classifiers_name_the_pythons_that_are_supported() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    named = {word.rsplit(" ", 1)[1] for word in project["classifiers"] if re.search(r":: 3\.\d+$", word)}
    assert named == set(workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"])


def test_every_room_is_in_the_guide() -> None:
    told = set(re.findall(r"`((?:ci/|runner-setup/|tests/|benchmarks/)[\w/.]*)`", text("CONTRIBUTING.md")))
    assert not {path for path in told if not (ROOT / path).exists()}
    rooms = {f"ci/{path.parent.name}/" for path in (ROOT / "ci").glob("*/__init__.py")}
    assert rooms <= told


def test_the_readmes_exit_codes_are_those_of_the_program() -> None:
    told = {int(row["exit code"]): row["meaning"] for row in table("README.md", "exit code")}
    raised = {kind.exit_code for kind in (errors.RequestError, errors.SubjectError, errors.InfrastructureError)}
    assert set(told) == {0, *raised, cli.INTERRUPTED, cli.BUG}
    assert "configuration" in told[errors.RequestError.exit_code]
    assert "infrastructure" in told[errors.InfrastructureError.exit_code]


def test_the_readmes_entry_is_one(tmp_path: Path) -> None:
    (entry,) = re.findall(r"```toml\n(.*?)```", text("README.md"), re.DOTALL)
    (tmp_path / "models.toml").write_text(entry, encoding="utf-8")
    assert load_models(tmp_path / "models.toml")["my-model"].test_params.sequence_length == 64


def test_the_readmes_workflow_passes_inputs_and_secrets_that_there_are() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", text("README.md"), re.DOTALL)
    for job in yaml.safe_load(shown)["jobs"].values():
        name = re.search(r"workflows/([\w-]+\.yml)@", job["uses"])
        assert name
        called = workflow(name[1])[True]["workflow_call"]
        assert set(job["with"]) <= set(called["inputs"])
        assert set(job["secrets"]) <= set(called["secrets"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_and_tests_that_are_told_are_there(document: str) -> None:
    modules = set(re.findall(r"python[\d.]* -m ((?:ci|tests|benchmarks)[\w.]*)", text(document)))
    assert not [name for name in modules if find_spec(name) is None]
    defined = {
        name for path in ROOT.glob("tests/**/*.py") for name in DEFINED.findall(path.read_text(encoding="utf-8"))
    }
    defined |= {path.stem for path in ROOT.glob("tests/**/test_*.py")}
    told = set(re.findall(r"`(test_\w+?)(?:\[[^`]*)?`", text(document))) - {"test_params"}
    assert told <= defined


DEFINED = re.compile(r"def (test_\w+)")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_groups_that_are_told_have_models(document: str) -> None:
    groups = {group for model in load_models().values() for group in model.groups}
    assert set(re.findall(r"[` ]@([a-z][a-z-]+)[`.,' ]", text(document))) - {"group", "groups"} <= groups


def test_failure_classes_that_are_told_are_those_of_reports() -> None:
    told = set(re.findall(r"(?:ends as|labelled) `(\w+)`", "".join(map(text, DOCUMENTS))))
    assert told
    assert told <= set(CLASSES)


def test_the_catalogue_has_as_many_bugs_as_is_told() -> None:
    page = " ".join(text("docs/figures.md").split())
    first = re.search(r"had the first (\d+) of its bugs", page)
    since = re.search(
        r"The catalogue has (\d+) more bugs: (\d+) that the default tests must catch .*? and (\d+) that", page
    )
    assert first
    assert since
    more, default, deep = map(int, since.groups())
    assert (len(catalogue()), len(deep_catalogue())) == (int(first[1]) + default, deep)
    assert more == default + deep
