"""One planted bug of each class through `hub-tests run`: exit code 1, and layer, operation and half in the first line.

The bug stands in a copy of this package that runs as the subject in a worker of its own, as a pull request's would;
the judge is this one.
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
from benchmarks.mutation.tiny_models import SIZES, SPECIMENS, Specimen, write
from ci.equivalence.tensor_location import BLOCK_OPERATIONS, locate_tensor
from tests.standin.server import HubServer

CHECKOUT = Path(__file__).parents[1]
LAYERS = int(SIZES["num_hidden_layers"])
CREATE, RIGHT = "def create(name: str) -> Subject:", "        return ReferenceSubject()\n"
PLANTED = """        from benchmarks.mutation.catalogue import catalogue
        from benchmarks.mutation.injection import MutantSubject

        return MutantSubject(next(bug for bug in catalogue() if bug.name == {name!r}))
"""


@dataclass(frozen=True)
class Seen:
    """What a run with one bug said: exit code, and the first line of its summary."""

    mutation: Mutation
    specimen: Specimen
    code: int
    first_line: str

    @property
    def right(self) -> bool:
        """Red, with the bug's place and half in the first line."""
        return self.code == 1 and any(f"{place} [{self.mutation.half}]" in self.first_line for place in self._places)

    @property
    def _places(self) -> set[str]:
        names = ["embeddings", "final_norm", "logits"]
        names += [f"decoder.{n}.{operation}".rstrip(".") for n in range(LAYERS) for operation in BLOCK_OPERATIONS]
        return {str(locate_tensor(name)) for name in names if self.mutation.is_at(name)}


def figures() -> list[Figure]:
    """The share of classes whose bug is named; every first line goes to stderr."""
    with HubServer() as hub, tempfile.TemporaryDirectory(prefix="hub-tests-classes-") as scratch:
        for specimen in SPECIMENS.values():
            hub.add(f"specimen/{specimen.name}", write(specimen, Path(scratch) / specimen.name))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            run = partial(_run, hub.endpoint, Path(scratch))
            found = list(pool.map(run, *zip(*_one_of_each(), strict=True)))
    for seen in found:
        sign = "ok" if seen.right else "NOT NAMED"
        said = f"{sign}: {seen.mutation.bug_class}: {seen.mutation.name} in {seen.specimen.name}: {seen.first_line}"
        print(said, file=sys.stderr)
    named = sum(seen.right for seen in found)
    how = f"{named} of {len(found)} classes, one bug of each through `hub-tests run`"
    return [Figure("classes named by layer, operation and half", named / len(found), "=", 1.0, how=how)]


def _one_of_each() -> list[tuple[Mutation, Specimen]]:
    """Class after class: its first bug, in the first specimen that can have it."""
    first: dict[str, tuple[Mutation, Specimen]] = {}
    for mutation in catalogue():
        fitting = [specimen for specimen in SPECIMENS.values() if mutation.fits(specimen)]
        first.setdefault(mutation.bug_class, (mutation, fitting[0]))
    return list(first.values())


def _run(endpoint: str, scratch: Path, mutation: Mutation, specimen: Specimen) -> Seen:
    home = Path(tempfile.mkdtemp(dir=scratch))
    subject, registry = _planted(home / "subject", mutation), home / "models.toml"
    entry = f'[{specimen.name}]\nmodel_id = "specimen/{specimen.name}"\n'
    registry.write_text(entry + f'checkpoint_format = "{specimen.model_type}"\nnum_layers_to_keep = {LAYERS}\n')
    words = [sys.executable, "-m", "ci", "run", specimen.name, "--registry", str(registry), "--device", "cpu"]
    words += ["--subject", "reference", "--subject-python", sys.executable, "--subject-path", str(subject)]
    environ = {**os.environ, "HF_ENDPOINT": endpoint, "HUB_TESTS_CACHE": str(home / "store"), "OMP_NUM_THREADS": "1"}
    words += ["--report", str(home / "out")]
    done = subprocess.run(words, env=environ, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    causes = json.loads((home / "out" / "report.json").read_bytes())["causes"]
    lines = (home / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    return Seen(mutation, specimen, done.returncode, lines[0] if causes else done.stderr[-300:])


def _planted(root: Path, mutation: Mutation) -> Path:
    """A checkout of this package whose reference subject has the bug."""
    shutil.copytree(CHECKOUT / "ci", root / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    source = root / "ci" / "subjects" / "open.py"
    head, _, body = source.read_text(encoding="utf-8").partition(CREATE)
    if RIGHT not in body:
        raise AssertionError("the line that makes the reference moved: point this benchmark at it")
    source.write_text(head + CREATE + body.replace(RIGHT, PLANTED.format(name=mutation.name)), encoding="utf-8")
    return root


if __name__ == "__main__":
    sys.exit(show(figures()))
