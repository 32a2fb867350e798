"""One bug of each class through `hub-tests run`: exit code 1, and layer, operation and component in the first line.

The bug is in a copy of this package. The copy runs as the subject in a worker of its own, as the code of a pull request
does; the package here judges it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks._figure import Figure, show
from benchmarks.mutation.catalogue import catalogue
from benchmarks.mutation.injection import Mutation
from benchmarks.mutation.tiny_models import SIZES, TINY_MODELS, TinyModel, write_tiny_model
from ci.equivalence.tensor_location import locate_tensor
from ci.tensor_names import BLOCK_OPERATIONS
from tests.standin.server import HubServer

CHECKOUT = Path(__file__).parents[1]
LAYERS = int(SIZES["num_hidden_layers"])
CREATE, CORRECT = "def _create_reference() -> Subject:", "    return ReferenceSubject()\n"
MUTATED = """    from benchmarks.mutation.catalogue import catalogue
    from benchmarks.mutation.injection import MutantSubject

    return MutantSubject(next(bug for bug in catalogue() if bug.name == {name!r}))
"""


@dataclass(frozen=True)
class ClassResult:
    """What a run with one bug printed: the exit code, and the first line of its summary."""

    mutation: Mutation
    tiny_model: TinyModel
    code: int
    first_line: str

    @property
    def is_named(self) -> bool:
        """Whether the run failed with the place and the component of the bug in the first line."""
        labels = {f"{place} [{self.mutation.component}]" for place in self._places}
        return self.code == 1 and any(label in self.first_line for label in labels)

    @property
    def _places(self) -> set[str]:
        names = ["embeddings", "final_norm", "logits"]
        operations = (*BLOCK_OPERATIONS, "")
        names += [f"decoder.{n}.{operation}".rstrip(".") for n in range(LAYERS) for operation in operations]
        return {str(locate_tensor(name)) for name in names if self.mutation.matches_location(name)}


def figures() -> list[Figure]:
    """Return the share of classes whose bug is named; print each first line on stderr."""
    with HubServer() as hub, tempfile.TemporaryDirectory(prefix="hub-tests-classes-") as scratch:
        for tiny_model in TINY_MODELS.values():
            hub.add(f"tiny/{tiny_model.name}", write_tiny_model(tiny_model, Path(scratch) / tiny_model.name))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            run = partial(_run, hub.endpoint, Path(scratch))
            results = list(pool.map(run, *zip(*_one_of_each(), strict=True)))
    for result in results:
        sign, bug = "ok" if result.is_named else "NOT NAMED", result.mutation
        line = f"{sign}: {bug.bug_class}: {bug.name} in {result.tiny_model.name}: {result.first_line}"
        print(line, file=sys.stderr)
    named = sum(result.is_named for result in results)
    how = f"{named} of {len(results)} classes, one bug of each through `hub-tests run`"
    return [Figure("classes named by layer, operation and component", named / len(results), "=", 1.0, how=how)]


def _one_of_each() -> list[tuple[Mutation, TinyModel]]:
    """Return the first bug of each class, with the first tiny model that it applies to."""
    first: dict[str, tuple[Mutation, TinyModel]] = {}
    for mutation in catalogue():
        applicable = [tiny_model for tiny_model in TINY_MODELS.values() if mutation.applies_to(tiny_model)]
        first.setdefault(mutation.bug_class, (mutation, applicable[0]))
    return list(first.values())


def _run(endpoint: str, scratch: Path, mutation: Mutation, tiny_model: TinyModel) -> ClassResult:
    home = Path(tempfile.mkdtemp(dir=scratch))
    subject, registry = _copy_with_bug(home / "subject", mutation), home / "models.toml"
    entry = f'[{tiny_model.name}]\nmodel_id = "tiny/{tiny_model.name}"\n'
    registry.write_text(entry + f'checkpoint_format = "{tiny_model.model_type}"\nnum_layers_to_keep = {LAYERS}\n')
    words = [sys.executable, "-m", "ci", "run", tiny_model.name, "--registry", str(registry), "--device", "cpu"]
    words += ["--subject", "reference", "--subject-python", sys.executable, "--subject-path", str(subject)]
    environ = {**os.environ, "HF_ENDPOINT": endpoint, "HUB_TESTS_CACHE": str(home / "store"), "OMP_NUM_THREADS": "1"}
    words += ["--report", str(home / "out")]
    done = subprocess.run(words, env=environ, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    causes = json.loads((home / "out" / "report.json").read_bytes())["causes"]
    lines = (home / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    return ClassResult(mutation, tiny_model, done.returncode, lines[0] if causes else done.stderr[-300:])


def _copy_with_bug(root: Path, mutation: Mutation) -> Path:
    """Write a checkout of this package in which the reference subject has the bug."""
    shutil.copytree(CHECKOUT / "ci", root / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    source = root / "ci" / "subjects" / "registry.py"
    head, _, body = source.read_text(encoding="utf-8").partition(CREATE)
    if CORRECT not in body:
        raise AssertionError(
            "the line that creates the reference subject has moved: change CREATE and CORRECT in benchmarks/classes.py"
        )
    source.write_text(head + CREATE + body.replace(CORRECT, MUTATED.format(name=mutation.name)), encoding="utf-8")
    return root


if __name__ == "__main__":
    sys.exit(show(figures()))
