"""The description of a subject's base environment: a small TOML file, known by the hash of what it says."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ci.errors import RequestError
from ci.records import STRICT, read_dict, to_dict
from ci.spelling import suggest_name

SHIPPED = Path(__file__).parent
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
IMAGE = re.compile(r"(?:docker://|(?:oci|oci-archive|docker-archive|dir):)[^\s-]\S{0,500}")
"""containers-transports(5), less those that need a daemon."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
REFUSED_VARIABLE = re.compile(
    r"(?i:PYTHON|LD_|DYLD_|GITHUB|ACTIONS|RUNNER|INPUT_|PYTEST|HUB_TESTS|BASH_|GIT_|PIP_|UV_).*"
    r"|(?i:PATH|HOME|TMPDIR|TMP|TEMP|USER|LOGNAME|SHELL|IFS|ENV|GCONV_PATH|LOCPATH|NLSPATH|.*(?:TOKEN|SECRET|PASSWORD))"
)
"""Variables that change which code runs or where it writes, that Actions reads, or that hold secrets."""


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
    path = Path(name_or_path)
    if NAME.fullmatch(name_or_path) and not path.is_file():
        path = SHIPPED / f"{name_or_path}.toml"
        if not path.is_file():
            known = shipped_descriptions()
            hint = suggest_name(name_or_path, known)
            raise RequestError(f"environment '{name_or_path}': expected {', '.join(known)} or a TOML file.{hint}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot read the description: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not TOML: {error}") from None
    return _checked(table, path)


def _checked(table: dict[str, Any], path: Path) -> EnvironmentDescription:
    keys = {key.replace("-", "_"): value for key, value in table.items()}
    description = read_dict(EnvironmentDescription, {"name": path.stem, **keys}, what=str(path))
    if not {"requirements", "image"} & keys.keys():
        raise RequestError(f"{path}: requirements: expected the packages of the environment, or an `image`")
    if not NAME.fullmatch(description.name):
        raise RequestError(f"{path}: name '{description.name[:80]}': expected lower case, digits, - and _")
    if Path(description.import_path).is_absolute() or ".." in Path(description.import_path).parts:
        raise RequestError(f"{path}: import-path '{description.import_path[:80]}': expected a path below the checkout")
    _check_variables(description, path)
    _check_image(description, path)
    named = (*description.requirements, *description.constraints, *description.excluded)
    if wrong := [word for word in named if word.startswith("-")]:
        raise RequestError(f"{path}: requirements: '{wrong[0][:80]}': expected a package, options are not allowed")
    _check_versions(description, named, path)
    return description


def _check_versions(description: EnvironmentDescription, named: tuple[str, ...], path: Path) -> None:
    """Raise RequestError for what no installer could read; paths and addresses are the installer's to judge."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet("" if description.image else description.python)
    except InvalidSpecifier:
        expected = "expected versions, like >=3.12,<3.14"
        raise RequestError(f"{path}: python '{description.python[:80]}': {expected}") from None
    for word in named:
        try:
            Requirement("any" if "/" in word else word)
        except InvalidRequirement:
            expected = "expected a package, like torch>=2.9,<3"
            raise RequestError(f"{path}: requirements: '{word[:80]}': {expected}") from None


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
