"""The worker's program: one subject that answers one request per line until its pipe is closed.

It runs in the subject's interpreter, which needs nothing of ours except this package's directory: it is started as a
file and loads the package `ci` from its place, so that neither our site-packages nor anything beside `ci` can be
imported. Where the subject has a package `ci` of its own, that one keeps the name, and ours takes another.

A request is `{"id", "method", "arguments"}`, a response `{"id", "result"}` or `{"id", "failure", "message"}`, each one
line of JSON on a pipe of its own. What the subject prints goes to the log, so it cannot pass as a response.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import sys
import traceback
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.subjects.base import Subject

PUBLISHED = Path(__file__).resolve().parents[2] / "hub_tests"
"""The package that adapters import."""
PACKAGE = "ci"
OTHER_NAME = "hub_tests_ci"
"""The name of our package where the subject has one that is called `ci`."""
UNANSWERED = ("prepare", "prepare_device", "release")
"""Methods without a result."""
HUGGING_FACE_METHODS = ("resolve_config", "write_model")
TRAINING_METHODS = ("train", "train_in_parts")
"""The second one is that of Hugging Face's side alone."""


def expose_package() -> str:
    """Make our package importable from its own directory alone, and return its name: `ci`, unless that is taken."""
    directory = Path(__file__).resolve().parents[1]
    if is_taken(directory):
        sys.meta_path.insert(0, RenamedPackage({OTHER_NAME: directory, PUBLISHED.name: PUBLISHED}))
        return OTHER_NAME
    spec = importlib.util.spec_from_file_location(
        PACKAGE, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{directory} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return PACKAGE


def is_taken(directory: Path) -> bool:
    """Return whether the subject's import path has a package or module `ci` that is not ours.

    A directory without `__init__.py` is one if there is Python code in it: often it only has a CI service's scripts.
    """
    found = PathFinder.find_spec(PACKAGE)
    if found is None:
        return False
    if found.origin:
        return Path(found.origin).resolve() != directory / "__init__.py"
    places = {Path(place).resolve() for place in found.submodule_search_locations or ()} - {directory}
    return any(any(place.glob("*.py")) for place in places)


class RenamedPackage(MetaPathFinder):
    """Finds the modules of packages of ours by name, and makes them import each other by our package's other name."""

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of a module of ours, None for any other."""
        del path, target
        package, *rest = fullname.split(".")
        if package not in self.packages:
            return None
        place = self.packages[package].joinpath(*rest)
        is_package = (place / "__init__.py").is_file()
        file = place / "__init__.py" if is_package else place.with_suffix(".py")
        if not file.is_file():
            return None
        loader, places = RenamingLoader(fullname, str(file)), [str(place)] if is_package else None
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=places)


class RenamingLoader(SourceFileLoader):
    """Loads a file of ours in which `ci` means our package, whatever the subject calls so."""

    def get_code(self, fullname: str) -> Any:
        """Compile the file with its imports changed; Python's own cache holds the file as it is."""
        file = self.get_filename(fullname)
        tree = ast.parse(self.get_data(file), file)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                node.module = rename_module(node.module)
            elif isinstance(node, ast.Import):
                node.names = [_rename_alias(alias) for alias in node.names]
        return compile(tree, file, "exec", dont_inherit=True)


def rename_module(name: str) -> str:
    """Return the other name of a module of our package, and any other name as it is."""
    package, dot, rest = name.partition(".")
    return f"{OTHER_NAME}{dot}{rest}" if package == PACKAGE else name


def _rename_alias(alias: ast.alias) -> ast.alias:
    """Rename `import ci`; `import ci.x` would bind the name `ci`, so no module of ours may say so."""
    renamed = rename_module(alias.name)
    if renamed == alias.name:
        return alias
    if alias.asname is None and "." in alias.name:
        raise ImportError(f"import {alias.name}: write it as 'from … import' in a module that a worker loads")
    return ast.copy_location(ast.alias(renamed, alias.asname or alias.name), alias)


def main(arguments: list[str]) -> None:
    """Run `worker_main.py SUBJECT READ_FD WRITE_FD [ADAPTER]`: answer requests until the other side closes its end.

    SUBJECT is `module:Class` for an adapter of others; ADAPTER is the place of its module, where that is not one of
    this interpreter's own. `worker_main.py rank CALL` is a rank in an
    interpreter of its own (`ci.subjects.rank_process.spawn_rank`).
    """
    from ci.subjects.rank_process import RANK_WORD, run_call

    if arguments[0] == RANK_WORD:
        os._exit(run_call(Path(arguments[1])))  # a library of collectives may hang while it is unloaded
    answer_requests(arguments, lambda name: load_subject(name, *map(Path, arguments[3:])), call_method)


def answer_requests(arguments: list[str], create: Callable[[str], Any], call: Callable[[Any, str, Any], Any]) -> None:
    """Make the subject of this name, and answer each line with a call's result."""
    name, read, write = arguments[0], int(arguments[1]), int(arguments[2])
    for descriptor in (read, write):
        os.set_inheritable(descriptor, False)  # the subject's children must not keep the pipes open
    subject = create(name)
    with os.fdopen(read, encoding="utf-8") as requests, os.fdopen(write, "w", encoding="utf-8") as responses:
        for line in requests:
            response = handle_request(subject, json.loads(line), call)
            release_memory(collect="failure" in response)
            responses.write(json.dumps(response) + "\n")
            responses.flush()


def load_subject(name: str, adapter: Path | None = None) -> Subject:
    """Make the subject: one of this package, or the class `module:Class` of an adapter that others wrote."""
    if adapter is None and ":" not in name:
        from ci.subjects.registry import create_subject

        return create_subject(name)
    from ci.subjects.plugins import Plugin, expose_module

    if not __name__.startswith(f"{OTHER_NAME}."):  # then `RenamedPackage` finds it
        expose_module(PUBLISHED.name, PUBLISHED)
    subject: Subject = Plugin(name, adapter).load()()
    return subject


def handle_request(
    subject: Any, request: dict[str, Any], call: Callable[[Any, str, Any], Any] | None = None
) -> dict[str, Any]:
    """Call the subject and return the response.

    An exception becomes a failure; its traceback goes to the log.
    """
    from ci.subjects.failure import classify_error, format_error

    try:
        return {"id": request["id"], "result": (call or call_method)(subject, request["method"], request["arguments"])}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"id": request["id"], "failure": classify_error(error), "message": format_error(error)}
    finally:
        sys.stdout.flush()


def release_memory(*, collect: bool) -> None:
    """Return unused device memory, so that the other side can use it.

    `collect` after a failed call: its traceback may have kept tensors until now.
    """
    if "torch" in sys.modules:
        from ci.subjects.memory import release_unused_memory

        release_unused_memory(collect=collect)


def call_method(subject: Subject, method: str, arguments: dict[str, Any]) -> Any:
    """Call one method of the protocol; records go in and come out as plain values."""
    from ci.errors import NotOfferedError
    from ci.records import to_dict
    from ci.subjects.base import (
        NO_GRADIENTS,
        ConvertRequest,
        Differentiable,
        ExportRequest,
        GradientRequest,
        TraceRequest,
    )

    if method == "describe":
        return to_dict(subject.describe())
    if method == "variants":
        return [to_dict(variant) for variant in subject.variants(arguments["checkpoint"])]
    requests = {"convert": ConvertRequest, "export": ExportRequest, "trace": TraceRequest}
    if method in requests:
        return to_dict(getattr(subject, method)(requests[method](**arguments)))
    if method in UNANSWERED:
        _call_unanswered(subject, method, arguments)
        return True
    if method in HUGGING_FACE_METHODS:
        return _call_hugging_face(subject, method, arguments)
    if method == "gradients":
        if not isinstance(subject, Differentiable):
            raise NotOfferedError(NO_GRADIENTS)
        return to_dict(subject.gradients(GradientRequest(**arguments)))
    if method in TRAINING_METHODS:
        return _call_train(subject, method, arguments)
    raise ValueError(f"unknown method {method!r}")


def _call_unanswered(subject: Subject, method: str, arguments: dict[str, Any]) -> None:
    """Let the subject unload its model; or make libraries or a device ready, where it can do that alone."""
    from ci.garbage_collection import leave_imports_alone
    from ci.subjects.base import DevicePreparable, Preparable

    if method == "release":
        subject.release()
    elif method == "prepare_device" and isinstance(subject, DevicePreparable):
        with suppress(Exception):  # the first trace says what is wrong, and has more memory
            subject.prepare_device(arguments["device"])
    elif method == "prepare" and isinstance(subject, Preparable):
        with leave_imports_alone():
            subject.prepare()


def _call_train(subject: Subject, method: str, arguments: dict[str, Any]) -> Any:
    """Train, where the subject can."""
    from ci.errors import NotOfferedError
    from ci.records import to_dict
    from ci.subjects.training import NO_TRAINING, OptimizerSettings, Trainable, TrainRequest

    if not isinstance(subject, Trainable) or not hasattr(subject, method):
        raise NotOfferedError(NO_TRAINING)
    optimizer = OptimizerSettings(**arguments["optimizer"])
    return to_dict(getattr(subject, method)(TrainRequest(**{**arguments, "optimizer": optimizer})))


def _call_hugging_face(subject: Subject, method: str, arguments: dict[str, Any]) -> Any:
    """Call what only Hugging Face's side has."""
    from ci.errors import NotOfferedError
    from ci.records import to_dict
    from ci.subjects.base import HuggingFaceRunner

    if not isinstance(subject, HuggingFaceRunner):
        raise NotOfferedError(f"only Hugging Face's side has {method}")
    result = getattr(subject, method)(**arguments)
    return result if isinstance(result, dict) else to_dict(result)


if __name__ == "__main__":
    importlib.import_module(f"{expose_package()}.subjects.worker_main").main(sys.argv[1:])
