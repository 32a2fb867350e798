"""A pull request whose build backend attacks, through `hub-tests run --environment`: a crash, no green."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ci.records import to_dict
from tests.attacks.scene import find_failures, hash_tree, list_processes
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_subject

if TYPE_CHECKING:
    from ci.environments.base import BaseEnvironment
    from tests.attacks.scene import Scene

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("attacks")]
BUILDS = {
    "writes everywhere and succeeds": (
        """
import glob, os
for path in {paths!r}:
    try:
        open(path, "a").write("evil")
    except OSError:
        pass
""",
        "fast_llm",
    ),
    "commands the runner and fails": (
        """
print("::set-env name=PYTHONPATH::/evil", flush=True)
raise SystemExit("::add-path::/evil")
""",
        "the subject's build failed",
    ),
    "makes its log a terabyte and fails": (
        "import os; os.ftruncate(1, 2**40); os._exit(1)",
        "the subject's build failed",
    ),
}


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_that_attacks_is_a_crash(name: str, scene: Scene, base: BaseEnvironment) -> None:
    code, says = BUILDS[name]
    scene.runs += 1
    description = scene.root / "standin.toml"
    fields = {key: value for key, value in to_dict(DESCRIPTION).items() if value}
    description.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    checkout = write_subject(scene.root / f"checkout-{scene.runs}")
    where = scene.where(checkout)
    paths = [*where["actions"], where["secret"], f"{where['judge']}/ci/run.py", f"{where['store']}/evil"]
    (checkout / "setup.py").write_text(code.format(paths=paths) + "\n" + (checkout / "setup.py").read_text())
    protected = [path for path in scene.protected if path.name != "store"]
    before = hash_tree(*protected)
    done = scene.hub_tests(
        *("run", "tiny", "--registry", str(scene.root / "models.toml"), "--device", "cpu"),
        *("--report", str(scene.report), "--isolation", "required", "--checkpoints", str(scene.pins)),
        *("--subject", "fast_llm", "--environment", str(description), "--subject-source", str(checkout)),
        HUB_TESTS_ENVIRONMENTS=str(base.path.parent),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    results = json.loads((scene.report / "report.json").read_bytes())
    assert results["verdict"] == "failed"
    assert find_failures(results)["test_conversion"] in ("crash", "other"), done.stdout
    assert says in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert hash_tree(*protected) == before
    assert not (scene.root / "store" / "evil").exists()
    assert list(scene.temporary.iterdir()) == []
    assert list_processes(scene.marker) == []
