"""A pull request with a broken converter that attacks its own verdict, through the real workflow engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import events
from tests.e2e.act import git

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Scene

ATTACKS = {
    "sets variables for the next step": """
import glob, os
places = [os.environ.get(name, "") for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT")]
for place in [*places, *glob.glob("/*/*/*/_runner_file_commands/*")]:
    try:
        open(place, "a").write("PYTHONPATH=/tmp/evil\\n")
    except OSError:
        pass
print("::set-env name=PYTHONPATH::/tmp/evil\\n##[set-env name=PYTHONPATH;]/tmp/evil", flush=True)
""",
    "kills and stops whatever it can": """
import os, signal
for number in range(1, 65536):
    if number not in (1, os.getpid(), os.getppid()):
        for what in (signal.SIGSTOP, signal.SIGKILL):
            try:
                os.kill(number, what)
            except OSError:
                pass
""",
    "leaves a result file and a daemon that repeats it": """
import os, subprocess, sys
forge = "import os, time\\nwhile True:\\n"
forge += "    for place in ('.', '..', '/tmp'):\\n"
forge += "        if os.path.isdir(place + '/results'): open(place + '/results/junit.xml', 'w').write('<x/>')\\n"
forge += "    time.sleep(0.1)"
subprocess.Popen([sys.executable, "-c", forge], start_new_session=True)
""",
    "reaches for the memory of other processes": """
import glob
for place in glob.glob("/proc/[0-9]*/mem") + glob.glob("/proc/[0-9]*/environ"):
    try:
        open(place, "r+b").write(b"ATTACKED")
    except OSError:
        pass
""",
}


def commit_attack(scene: Scene, code: str, work: Path) -> str:
    """Add code to the broken converter, push it to the framework's repository, and return the commit."""
    git(scene.commits.root, "clone", "--quiet", "octo-org/framework.git", str(work))
    git(work, "checkout", "--quiet", "-b", work.name, scene.commits.broken)
    converter = work / "ci/subjects/reference/convert.py"
    head, future, rest = converter.read_text().partition("from __future__ import annotations\n")
    converter.write_text(f"{head}{future}{code}{rest}")
    git(work, "commit", "--quiet", "--all", "--message=attack")
    git(work, "push", "--quiet", "origin", work.name)
    return git(work, "rev-parse", "HEAD")


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_turns_its_commit_green(attack: str, real_scene: Scene, tmp_path: Path) -> None:
    scene = real_scene
    sha = commit_attack(scene, ATTACKS[attack], tmp_path / f"attack-{list(ATTACKS).index(attack)}")
    scene.state.pulls[7]["sha"] = sha
    outcome = scene.host.run(
        "hub-tests-comment.yml", "issue_comment", events.comment("/run-hub-tests smollm2 --layers 2")
    )
    assert outcome.jobs["test smollm2"] == "failure", outcome.log
    assert outcome.jobs["conclude"] == "failure", outcome.log
    assert scene.state.comment("board").splitlines()[1].startswith("## ❌ Failed: 1 of 1 model"), outcome.log
    assert [status["state"] for status in scene.state.statuses] == ["pending", "failure"]
