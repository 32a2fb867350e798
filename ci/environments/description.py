"""The description of a subject's base environment: a small TOML file, known by the hash of what it says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from ci.errors import RequestError
from ci.records import STRICT, read_dict, to_dict
from ci.spelling import suggest_name
from ci.subjects.failure import to_one_line

SHIPPED = Path(__file__).parent
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
IMAGE = re.compile(r"(?:docker://|(?:oci|oci-archive|docker-archive|dir):)[^\s-]\S{0,500}")
"""containers-transports(5), less those that need a daemon."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
REFUSED_VARIABLE = re.compile(
    r"(?i:PYTHON|LD_|DYLD_|GITHUB|ACTIONS|RUNNER|INPUT_|PYTEST|HUB_TESTS|BASH_|GIT_|PIP_|UV_).*"
    r"|(?i:PATH|HOME|TMPDIR|TMP|TEMP|USER|LOGNAME|SHELL|IFS|ENV|GCONV_PATH|LOCPATH|NLSPATH|.*(?:TOKEN|SECRET|PASSW(?:OR)?D|CREDENTIALS?|(?:API|ACCESS|PRIVATE)_?KEY))"
)
"""Variables that change which code runs or where it writes, that Actions reads, or that hold secrets."""
OPTION = re.compile(r"(?:^|\s)-")
MAX_FILE_BYTES = 2**20
MAX_TEXT = 2**16
"""Characters of a text, and of all variables together: both go into a command line or an environment."""


@dataclass(frozen=True)
class EnvironmentDescription:
    """What a base environment holds. Whatever the subject's own build and import need has to be in `requirements`.

    `python` is a version specifier. With `image`, a container image that skopeo can name, it is the interpreter's path
    in that image, which brings all packages. `environment` are variables, set while the overlay is built and the
    subject runs. `import_test` is Python code that must succeed once the subject is installed. `install` says how its
    commit becomes importable: "wheel", or "editable" where only an editable installation is complete, from
    `import_path` below the checkout. `compiler` is what the subject's build calls. `excluded` are packages that are not
    installed although another one requires them.
    """

    __pydantic_config__: ClassVar = STRICT
    name: str
    python: str
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    import_test: str = ""
    install: Literal["wheel", "editable"] = "wheel"
    import_path: str = "."
    compiler: Literal["none", "c", "c++"] = "none"
    excluded: tuple[str, ...] = ()
    image: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        content = to_dict(self)
        for key in ("excluded", "image"):
            if not content[key]:
                del content[key]  # as before there was this key: what was built stays known
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shipped_descriptions() -> tuple[str, ...]:
    """List the names of the descriptions that come with hub-tests."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def load_description(name_or_path: str) -> EnvironmentDescription:
    """Read a description that ships with hub-tests, or a file. Raises RequestError for what is none."""
    path, known = Path(name_or_path), shipped_descriptions()
    if os.sep not in name_or_path and not path.suffix and not os.path.isfile(name_or_path):  # noqa: PTH113 (any name)
        if name_or_path not in known:
            word, hint = to_one_line(name_or_path, 80), suggest_name(name_or_path, known)
            raise RequestError(f"environment '{word}': expected {', '.join(known)} or a TOML file.{hint}")
        path = SHIPPED / f"{name_or_path}.toml"
    return _checked(_read_table(path), path)


def _read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file of limited size. Raises RequestError for anything else."""
    shown = to_one_line(str(path), 300)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise RequestError(f"{shown}: more than {MAX_FILE_BYTES} bytes: expected a description of an environment")
        return tomllib.loads(content.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except OSError as error:
        raise RequestError(f"{shown}: cannot read the description: {error.strerror}") from None
    except RecursionError:
        raise RequestError(f"{shown}: not TOML that can be read: nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"{shown}: not TOML: {error}") from None


def _checked(table: dict[str, Any], path: Path) -> EnvironmentDescription:
    keys = _rename_keys(table, path)
    description = read_dict(EnvironmentDescription, {"name": path.stem, **keys}, what=str(path))
    if not {"requirements", "image"} & keys.keys():
        raise RequestError(f"{path}: requirements: expected the packages of the environment, or an `image`")
    if not NAME.fullmatch(description.name):
        raise RequestError(f"{path}: name '{description.name[:80]}': expected lower case, digits, - and _")
    if Path(description.import_path).is_absolute() or ".." in Path(description.import_path).parts:
        raise RequestError(f"{path}: import-path '{description.import_path[:80]}': expected a path below the checkout")
    _check_variables(description, path)
    _check_image(description, path)
    _check_texts(description, path)
    _check_python(description, path)
    for key in ("requirements", "constraints", "excluded"):
        for word in getattr(description, key):
            if problem := _find_problem(key, word):
                raise RequestError(f"{path}: {key}: '{to_one_line(word, 80)}': {problem}")
    return description


def _rename_keys(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the table by the names of the fields. Raises RequestError for a key that is unknown, or there twice."""
    known = {field.name.replace("_", "-"): field.name for field in fields(EnvironmentDescription)}
    keys: dict[str, Any] = {}
    for key, value in table.items():
        name = known.get(key.replace("_", "-"))
        if name is None:
            hint = suggest_name(key, known)
            raise RequestError(f"{path}: {to_one_line(key, 80)}: unknown key, expected {', '.join(known)}.{hint}")
        if name in keys:
            raise RequestError(f"{path}: {key}: given twice, with - and with _: leave one of them out")
        keys[name] = value
    return keys


def _check_texts(description: EnvironmentDescription, path: Path) -> None:
    """Raise RequestError for texts that no command line could hold."""
    for key in ("import_test", "import_path", "image", "python"):
        text, name = getattr(description, key), key.replace("_", "-")
        if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
            raise RequestError(f"{path}: {name}: expected printable text")
        if len(text) > MAX_TEXT:
            raise RequestError(f"{path}: {name}: {len(text)} characters, expected at most {MAX_TEXT}")
    size = sum(len(name) + len(value) for name, value in description.environment.items())
    if size > MAX_TEXT:
        raise RequestError(f"{path}: environment: {size} characters, expected at most {MAX_TEXT}")


def _find_problem(key: str, word: str) -> str:
    """Say what is wrong with a word of a list of packages, "" for none; whether it exists is the installer's to say."""
    from packaging.requirements import InvalidRequirement, Requirement

    if OPTION.search(word):
        return "expected a package, options are not allowed"
    if not word.isprintable() or word != word.strip() or word.startswith("#") or word.endswith("\\"):
        return "expected one package in one line"
    if key == "excluded" and not PACKAGE.fullmatch(word):
        return "expected the name of a package alone, like torchaudio"
    if "/" in word:
        return _find_problem_of_place(key, word)
    try:
        required = Requirement(word)
    except InvalidRequirement:
        return "expected a package, like torch>=2.9,<3"
    return "a constraint has no extras" if key == "constraints" and required.extras else ""


def _find_problem_of_place(key: str, word: str) -> str:
    """Say what is wrong with a package that a path or an address names."""
    place = word.partition(" @ ")[2] or word
    if key == "constraints":
        return "expected versions of a package; a path or an address belongs into requirements"
    if "://" not in place and not place.startswith("/"):
        return "expected a whole path: another directory would be another package"
    try:
        parts = urlsplit(place)
    except ValueError:
        return "expected an address or a path"
    if parts.password or (parts.username and parts.scheme.endswith(("http", "https"))):
        return "an address with a login would be readable in the environment; use the installer's own configuration"
    return ""


def _check_python(description: EnvironmentDescription, path: Path) -> None:
    """Raise RequestError for a `python` that is no range of versions."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet("" if description.image else description.python)
    except InvalidSpecifier:
        expected = "expected versions, like >=3.12,<3.14"
        raise RequestError(f"{path}: python '{description.python[:80]}': {expected}") from None


def _check_image(description: EnvironmentDescription, path: Path) -> None:
    """Raise RequestError for an image that is none, or that is mixed with packages."""
    if not description.image:
        return
    if not IMAGE.fullmatch(description.image):
        expected = "expected TRANSPORT:NAME, like docker://registry/name@sha256:… or oci:/directory:tag"
        raise RequestError(f"{path}: image '{description.image[:80]}': {expected}")
    if description.requirements or description.constraints or description.excluded:
        raise RequestError(f"{path}: image: it brings its own packages; leave requirements and the like out")
    if not description.python.startswith("/") or ".." in Path(description.python).parts:
        raise RequestError(f"{path}: python '{description.python[:80]}': expected its path in the image")


def _check_variables(description: EnvironmentDescription, path: Path) -> None:
    """Raise RequestError for a variable that a description may not set."""
    for name, value in description.environment.items():
        if not VARIABLE.fullmatch(name) or not value.isprintable():
            raise RequestError(f"{path}: environment: '{name[:80]}': expected NAME = \"printable text\"")
        if REFUSED_VARIABLE.fullmatch(name):
            reason = "a description may not set it: it could change which code runs, or hold a secret"
            raise RequestError(f"{path}: environment: '{name[:80]}': {reason}")
