"""A whole run in a job's unit under a real systemd, with a pull request that attacks: red, and nothing is left."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.attacks.cases import ATTACKS
from tests.attacks.scene import START, Scene, find_failures
from tests.attacks.test_without_root import MADE, OWN
from tests.runner_setup import test_live as live
from tests.runner_setup.conftest import app_key, config_text
from tests.runner_setup.machine import booted, why_not
from tests.standin.models import repository
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from tests.runner_setup.machine import Machine

__all__ = ["app_key"]
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("live")]

STORE = "/srv/hub-tests"
ROOMY = {"memory_gib = 1": "memory_gib = 8", "disk_gib = 1": "disk_gib = 3", "tmp_gib = 1": "tmp_gib = 4"}
JOB = """#!/bin/sh
cd "$HOME"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HUB_TESTS_CACHE=/srv/hub-tests/store
export LD_LIBRARY_PATH=/opt/hub-runner/python/lib  # an interpreter of a home directory was moved here
mkdir -p ../runner/_diag
{command} > said 2>&1
echo "exit code $?" >> said
{python} -I - <<'END'
import json, os
from pathlib import Path
here = Path.cwd()
def read(path):
    return path.read_text(errors="replace")[-200000:] if path.is_file() else ""
facts = {{"said": read(here / "said"), "report": read(here / "report/report.json"), "uid": os.getuid()}}
facts["log"] = read(here / "report/logs/tiny-reference.log")
facts["left"] = os.listdir(os.environ["TMPDIR"])
(here.parent / "runner/_diag/facts.log").write_text(json.dumps(facts))
END
"""


def write_scene(root: Path) -> Scene:
    """Lay out the judge, the store and a pull request that attacks, for the place where jobs see the store."""
    with HubServer() as hub:
        hub.add("stand-in/llama", repository("stand-in/llama"))
        scene = Scene(root, hub.endpoint)
        scene.build()
        scene.fetch()
    scene.write_subject("\n".join(textwrap.dedent(ATTACKS[name].code) for name in MADE))
    for path in (root / "checkpoints.json", root / "checkout-1/ci/subjects/reference/attack.py"):
        path.write_text(path.read_text().replace(str(root), STORE))
    return scene


def write_job() -> str:
    """Write the runner's script: one `hub-tests run`, and what it left."""
    words = [live.PYTHON, "-I", "-c", START, f"{STORE}/judge", "run", "tiny", "--registry", f"{STORE}/models.toml"]
    words += ["--device", "cpu", "--report", "report", "--isolation", "required", "--subject", "reference"]
    words += ["--checkpoints", f"{STORE}/checkpoints.json", "--subject-python", live.PYTHON]
    words += ["--subject-source", f"{STORE}/checkout-1", "--timeout", "240"]
    return JOB.format(command=shlex.join(words), python=live.PYTHON)


@pytest.fixture(scope="module")
def met(app_key: Path) -> Any:
    """Run the job on a slot, and return what it wrote down."""
    if reason := why_not():
        pytest.skip(reason)
    if shutil.which("bwrap") is None:
        pytest.skip("apt-get install bubblewrap")
    text = config_text("http://127.0.0.1:8080")
    for old, new in live.SMALL:
        text = text.replace(old, ROOMY.get(new, new))
    scratch = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        scene = write_scene(scratch / "scene")
        with booted(scratch) as machine:
            machine.write("/etc/hub-runner/app-key.pem", app_key.read_text(), 0o400)
            machine.write("/root/host.toml", text)
            live.furnish(machine)
            machine.write("/var/lib/hub-runner/runners/2.336.0/run.sh", write_job(), 0o755)
            machine.run("sh", "-c", f"cp -a {scene.root}/. {STORE}/ && chmod -R a+rX {STORE}")
            yield {**run_job(machine), "marker": scene.marker, "machine": machine}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_job(machine: Machine) -> dict[str, Any]:
    """Start the slot's unit, wait for its end, and return the facts and the store's digest before and after."""
    digest = f"cd {STORE} && find . -type f ! -path '*/__pycache__/*' -exec sha256sum {{}} + | sort"
    before = machine.run("sh", "-c", digest)
    live.hosted(machine, "start_runner(slot, JitRunner(1, 'secret'))")
    machine.wait("the job's end", lambda: not live.active(machine, live.GPU_SLOT), seconds=600)
    machine.wait("the unit's end", lambda: "active=False" in live.hosted(machine, "read_unit(slot)"))
    live.hosted(machine, "stop_runner(slot)")
    facts = live.facts(machine, live.GPU_SLOT)
    return {**facts, "unchanged": machine.run("sh", "-c", digest) == before}


def test_a_whole_run_in_a_jobs_unit_is_red(met: dict[str, Any]) -> None:
    assert "exit code 1" in met["said"], met["said"]
    assert met["uid"] == 60700
    report = json.loads(met["report"])
    assert report["verdict"] == "failed"
    assert find_failures(report)["test_forward_equivalence"] == "numeric_mismatch", met["said"]
    assert "isolated by bubblewrap" in met["said"]


def test_its_attacks_were_made_and_refused(met: dict[str, Any]) -> None:
    said = [line for line in met["log"].splitlines() if "ATTACK" in line]
    assert "ATTACK left a daemon" in said, met["said"]
    assert len([line for line in said if "refused:" in line]) > len(MADE)
    assert [line for line in said if ("done:" in line and not OWN.search(line)) or "leaked" in line] == []


def test_nothing_of_it_is_left(met: dict[str, Any]) -> None:
    assert met["unchanged"]
    assert [name for name in met["left"] if name.startswith("hub-tests")] == []
    assert met["marker"] not in met["machine"].run("ps", "-eo", "args")
