"""The units under a real systemd: what a hostile job meets, what is left of it, and a supervisor killed under it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.environments.image import PROGRAMS
from tests.ci.environments.images import MARKER, write_image
from tests.ci.environments.images import PYTHON as IMAGE_PYTHON
from tests.ci.environments.wheels import write_index
from tests.runner_setup.conftest import config_text
from tests.runner_setup.machine import Machine, booted

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("live")]

PYTHON = "/opt/hub-runner/venv/bin/python"
HOSTILE_JOB = "/opt/hub-runner/source/tests/runner_setup/hostile_job.py"
RUNNER = f"#!/bin/sh\nexec {PYTHON} {HOSTILE_JOB} /srv/hub-tests\n"
GPU_SLOT, STORE_SLOT = 0, 2
SMALL = (
    ("memory_gib = 96", "memory_gib = 1"),
    ("cpus = 12", "cpus = 1"),
    ("disk_gib = 100", "disk_gib = 1"),
    ("tmp_gib = 8", "tmp_gib = 1"),
    ("min_free_gib = 50", "min_free_gib = 1"),
    ("stop_seconds = 90", "stop_seconds = 2"),
    ("offline = false", "offline = true"),
    ('build = ["fast_llm"]', 'build = ["ci/theirs.toml"]'),
    ("status_issue = true", 'url = "file:///srv/github"\nstatus_issue = true'),
)


def hub_runner(machine: Machine, *verb: str, check: bool = True) -> str:
    return machine.run(PYTHON, "-I", "-m", "hub_runner", *verb, check=check)


@pytest.fixture(scope="module")
def machine(app_key: Path) -> Iterator[Machine]:
    """A host as `hub-runner install` leaves it, with a runner that is a hostile job, and GitHub on loopback."""
    text = config_text("http://127.0.0.1:8080")
    for old, new in SMALL:
        assert old in text
        text = text.replace(old, new)
    scratch = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        with booted(scratch) as machine:
            machine.write("/etc/hub-runner/app-key.pem", app_key.read_text(), 0o400)
            machine.write("/root/host.toml", text)
            write_index(scratch / "index")
            furnish(machine)
            offer_environment(machine, scratch / "index")
            offer_image(machine, scratch / "image")
            yield machine
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def furnish(machine: Machine) -> None:
    hub_runner(machine, "--root", "/tmp/look", "--config", "/root/host.toml", "install")
    machine.run("sh", "-c", "cp -a /tmp/look/etc/. /etc/ 2>/dev/null; cp -a /tmp/look/opt/. /opt/; rm -rf /tmp/look")
    machine.run("systemd-sysusers")
    machine.run("systemd-tmpfiles", "--create", "hub-runner.conf")
    runner = "/var/lib/hub-runner/runners/2.336.0"
    machine.write(f"{runner}/run.sh", RUNNER, 0o755)
    now = machine.run("date", "-u", "+%Y-%m-%dT%H:%M:%SZ").strip()
    manifest = {"version": "2.336.0", "published_at": now, "sha256": "0" * 64}
    machine.write(f"{runner}/hub-runner.json", json.dumps(manifest))
    machine.run("ln", "-sfn", "2.336.0", "/var/lib/hub-runner/runners/current")
    machine.run("systemctl", "daemon-reload")
    serve = f"exec {PYTHON} -m tests.runner_setup.fake_runners_api /etc/hub-runner/app-key.pem 8080"
    machine.run("systemd-run", "--unit=fake-github", "--working-directory=/opt/hub-runner/source", "sh", "-c", serve)
    machine.run("systemctl", "start", "hub-runner-registrar.socket")
    machine.wait("GitHub on loopback", lambda: github(machine) is not None)


def offer_environment(machine: Machine, index: Path) -> None:
    """A description on the default branch of what stands for GitHub, and an index of packages for its unit alone."""
    text = 'name = "theirs"\\npython = ">=3.11"\\nrequirements = ["prebuilt"]\\n'
    place = "/srv/github/org/repo"
    machine.run("cp", "-r", str(index), "/srv/index")
    script = f"""
mkdir -p {place}/ci && cd {place} && printf '{text}' > ci/theirs.toml
git init -q -b trunk && git add . && git -c user.name=x -c user.email=x commit -q -m x
chown -R hub-runner-environments: {place}
"""
    machine.run("sh", "-c", script)
    variables = " ".join(f"{tool}_{name}" for tool in ("PIP", "UV") for name in ("NO_INDEX=1", "FIND_LINKS=/srv/index"))
    drop_in = "/etc/systemd/system/hub-runner-environments.service.d/index.conf"
    machine.write(drop_in, f"[Service]\nEnvironment={variables} UV_OFFLINE=1\n")
    machine.run("systemctl", "daemon-reload")


def offer_image(machine: Machine, folder: Path) -> None:
    """A description of a container image beside the other one, and the image where the unit can read it."""
    if all(map(shutil.which, PROGRAMS)):
        machine.run("cp", "-r", str(write_image(folder)), "/srv/image")
    text = f'name = "image"\\npython = "{IMAGE_PYTHON}"\\nimage = "oci:/srv/image:small"\\n'
    commit = "git add . && git -c user.name=x -c user.email=x commit -q -m image"
    own = "git -c safe.directory='*'"
    script = f"cd /srv/github/org/repo && printf '{text}' > ci/image.toml && {commit.replace('git', own, 2)}"
    machine.run("sh", "-c", f"{script} && chown -R hub-runner-environments: .")


def github(machine: Machine, change: dict[str, Any] | None = None) -> Any:
    script = (
        "import sys, urllib.request as u; data = sys.stdin.buffer.read(); "
        "print(u.urlopen(u.Request('http://127.0.0.1:8080/__fake__', data)).read().decode())"
    )
    answer = machine.run(PYTHON, "-c", script, check=False, stdin=json.dumps(change or {}))
    return json.loads(answer) if answer.strip() else None


def active(machine: Machine, slot: int) -> bool:
    return machine.run("systemctl", "is-active", f"hub-runner-slot-{slot}.service", check=False).strip() == "active"


def phase(machine: Machine, slot: int) -> str:
    page = machine.run("cat", f"/var/lib/hub-runner/state/slot-{slot}.json", check=False)
    return str(json.loads(page or '{"phase": ""}')["phase"])


def facts(machine: Machine, slot: int) -> dict[str, Any]:
    logs = machine.run("sh", "-c", f"ls /var/log/hub-runner/slot-{slot}/").split()
    newest = [name for name in logs if name.endswith("facts.log")][-1]
    answers: dict[str, Any] = json.loads(machine.run("cat", f"/var/log/hub-runner/slot-{slot}/{newest}"))
    return answers


def hosted(machine: Machine, call: str) -> str:
    """Call a method of the supervisor's host on slot 0."""
    script = f"""
from pathlib import Path
from hub_runner.config_file import load_config
from hub_runner.interfaces import JitRunner
from hub_runner.layout import Layout
from hub_runner.systemd import SystemdHost
slot = load_config(Layout().config).get_slot(0)
print(SystemdHost(Layout()).{call})
"""
    return machine.run(PYTHON, "-I", "-c", script)


def test_the_doctor_tries_the_sandbox_under_the_slots_unit(machine: Machine) -> None:
    """What it finds is what a job would: another user, without capabilities, under the slot's filters."""
    script = """
from hub_runner.config_file import load_config
from hub_runner.layout import Layout
from hub_runner.slot_sandbox import probe_slot_sandbox
import dataclasses, json
found = probe_slot_sandbox(load_config(Layout().config).get_slot(0), Layout())
print(json.dumps(found if isinstance(found, str) else dataclasses.asdict(found)))
"""
    found = json.loads(machine.run(PYTHON, "-I", "-c", script))
    assert isinstance(found, dict), found
    assert found["as_root"] is False, found
    if not found["program"]:
        pytest.skip("apt-get install bubblewrap")
    assert found["start"]["ok"], found
    unit = "/etc/systemd/system/hub-runner-slot-0-probe.service"
    machine.run("cp", unit, "/root/kept")
    machine.run("sed", "-i", "s/^RestrictNamespaces=no/RestrictNamespaces=yes/", unit)
    machine.run("systemctl", "daemon-reload")
    try:
        broken = json.loads(machine.run(PYTHON, "-I", "-c", script))
    finally:
        machine.run("cp", "/root/kept", unit)
        machine.run("systemctl", "daemon-reload")
    assert broken["start"]["ok"] is False, broken


@pytest.fixture(scope="module")
def met(machine: Machine) -> dict[str, Any]:
    """The host's environments, then one job on the GPU slot, from start to end; what it met."""
    machine.run("systemctl", "start", "hub-runner-environments.service")
    machine.write("/srv/hub-tests/wait", "")
    hosted(machine, "start_runner(slot, JitRunner(1, 'secret'))")
    assert active(machine, GPU_SLOT), machine.journal()
    assert machine.run("systemctl", "is-active", "hub-runner-firewall.service").strip() == "active"
    machine.run("rm", "/srv/hub-tests/wait")
    machine.wait("the job's end", lambda: not active(machine, GPU_SLOT))
    machine.wait("the unit's end", lambda: "active=False" in hosted(machine, "read_unit(slot)"))
    hosted(machine, "stop_runner(slot)")
    return facts(machine, GPU_SLOT)


def test_a_job_has_no_power(met: dict[str, Any]) -> None:
    assert met["uid"] == 60700
    assert met["groups"] in ([], [60700])
    assert met["status"] == {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    assert met["unshare"] == {"cgroup": "errno 1", "user": "unshared"}


def test_a_job_can_put_code_into_a_sandbox_that_sees_none_of_the_job(met: dict[str, Any]) -> None:
    sandbox = met["sandbox"]
    if sandbox is None:
        pytest.skip("apt-get install bubblewrap")
    assert isinstance(sandbox, dict), sandbox
    assert sandbox["pid"] in sandbox["processes"]
    assert len(sandbox["processes"]) <= 2  # itself, and bubblewrap's reaper
    assert set(sandbox["environment"]) <= {"LC_CTYPE", "PWD"}
    assert sandbox["network"] == ["lo"]
    assert sandbox["CapEff"] == "0" * 16
    assert sandbox["trace"] == "done"
    assert sandbox["home"].startswith("errno")
    assert sandbox["judge"] == "errno 2"
    assert sandbox["outer proc"] == "errno 13"
    assert met["outer proc"] == "errno 13"


def test_a_job_writes_its_own_disk_and_memory_and_nothing_else(met: dict[str, Any]) -> None:
    writable = {place for place, answer in met["write"].items() if answer == "written"}
    assert writable == {"/tmp/x", "/dev/shm/x"}
    assert met["home"] == []
    assert met["tmp"] in ([], ["x"])
    assert met["disk"] < 1 << 30
    assert met["shm"] == 1 << 30


def test_a_job_uses_the_hosts_environment_and_cannot_change_it(machine: Machine, met: dict[str, Any]) -> None:
    assert met["prepared"] == "1"
    assert "prebuilt-1.0-py3-none-any.whl" in met["wheels"]
    for kept in ("environments", "wheels"):
        assert met["write"][f"/var/lib/hub-runner/{kept}/x"].startswith("errno")
        owner = machine.run("stat", "--format=%U %a", f"/var/lib/hub-runner/{kept}").strip()
        assert owner == "hub-runner-environments 755"
    assert "hub-runner-environments.timer" in machine.run("systemctl", "list-unit-files", "--state=enabled")


def test_nothing_is_built_twice_and_a_mistake_is_in_the_journal(machine: Machine, met: dict[str, Any]) -> None:
    before = machine.run("sh", "-c", "ls -l --time-style=full-iso /var/lib/hub-runner/environments/*/bin")
    machine.run("systemctl", "start", "hub-runner-environments.service")
    assert machine.run("sh", "-c", "ls -l --time-style=full-iso /var/lib/hub-runner/environments/*/bin") == before
    machine.run("mv", "/srv/github/org/repo", "/srv/github/org/away")
    machine.run("systemctl", "start", "hub-runner-environments.service", check=False)
    assert "is the repository public?" in machine.journal()
    machine.run("mv", "/srv/github/org/away", "/srv/github/org/repo")


def test_a_job_sees_no_secret_no_neighbour_and_no_other_process(met: dict[str, Any]) -> None:
    assert all(not isinstance(answer, list) or answer == [] for answer in met["list"].values()), met["list"]
    assert met["slots"] == ["0"]
    assert 1 not in met["processes"]
    assert len(met["processes"]) < 10
    assert met["jit"] == "secret"


def test_a_job_opens_its_slots_gpu_and_no_other(met: dict[str, Any]) -> None:
    assert met["device"] == {"nvidia0": "opened", "nvidia1": "errno 1", "null": "opened"}


def test_a_job_reaches_neither_the_metadata_address_nor_the_lan(met: dict[str, Any]) -> None:
    assert met["net"]["127.0.0.1"] == "reached"  # the same server, on the addresses that are closed
    assert met["net"]["169.254.169.254"].startswith("errno")
    assert met["net"]["10.9.8.7"].startswith("errno")
    assert met["low port"].startswith("errno")


def test_nothing_survives_a_job(machine: Machine, met: dict[str, Any]) -> None:
    assert met  # it has run, and left a process that ignores SIGTERM in a session of its own
    assert json.loads(hub_runner(machine, "leftovers", "--slot", "0")) == []
    assert machine.run("ls", "/var/lib/hub-runner/slots/0").split() == ["disk"]
    assert machine.run("ls", "-A", "/var/lib/hub-runner/slots/0/disk") == ""
    kept = machine.run("ls", "/var/log/hub-runner/slot-0").split()
    assert [name.rpartition("-")[2] for name in kept] == ["facts.log"]  # the link to /etc/shadow was not followed


ENTER = f"""
import subprocess
from pathlib import Path
from ci.environments.image import enter_image
(root,) = Path("/var/lib/hub-runner/environments").glob("image-*/rootfs")
told = "import os; print(open('{MARKER}').read(), os.getuid())"
command = enter_image(Path(f"{{root}}{IMAGE_PYTHON}"), ["-c", told])
print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
"""


def build_image(machine: Machine, *, images: bool, restricted: bool = False) -> str:
    """Build a container image under the unit of a host whose file allows it, or not; return what its journal says."""
    text = machine.run("cat", "/root/host.toml").replace('["ci/theirs.toml"]', '["ci/image.toml"]')
    text = text.replace("# images = true", "images = true") if images else text
    unit = "hub-runner-environments.service"
    machine.write("/root/images.toml", text)
    hub_runner(machine, "--root", "/tmp/look", "--config", "/root/images.toml", "install")
    places = (f"etc/systemd/system/{unit}", "etc/tmpfiles.d/hub-runner.conf", "etc/hub-runner/hub-runner.toml")
    machine.run("sh", "-c", "".join(f"cp /tmp/look/{place} /{place} && " for place in places) + "rm -rf /tmp/look")
    if restricted:
        machine.run("sed", "-i", "/^RestrictNamespaces=cgroup/d", f"/etc/systemd/system/{unit}")
    machine.run("systemd-tmpfiles", "--create", "hub-runner.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", unit, check=False)
    invocation = machine.run("systemctl", "show", "--value", "--property=InvocationID", unit).strip()
    return machine.run("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={invocation}")


def test_a_container_image_is_built_where_the_file_allows_it_and_a_slot_enters_it(
    machine: Machine, met: dict[str, Any]
) -> None:
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"apt-get install {' '.join(missing)}")
    assert met  # the host's own environments were built before, without this permission
    assert "set environments.images = true" in build_image(machine, images=False)
    closed = build_image(machine, images=True, restricted=True)
    assert "bubblewrap cannot make a sandbox here" in closed
    assert "fetching" not in closed
    assert ": ready" in build_image(machine, images=True)
    marked = machine.run("sh", "-c", "find /var/lib/hub-runner/environments/image-* -perm /6000")
    assert marked == ""
    probe = "/etc/systemd/system/hub-runner-slot-0-probe.service"
    start = f"ExecStart={PYTHON} -I /srv/enter.py"
    machine.write("/srv/enter.py", ENTER)
    machine.run("sed", "-i.kept", f"s#^ExecStart=.*#{start}#", probe)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "hub-runner-slot-0-probe.service", check=False)
    assert machine.run("cat", "/run/hub-runner/probe-0.json") == "the image 65533\n\n"
    machine.run("mv", f"{probe}.kept", probe)
    machine.run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def service(machine: Machine) -> Machine:
    """The host with its supervisor, every slot empty."""
    hub_runner(machine, "drain")
    machine.run("systemctl", "start", "hub-runner-supervisor.service")
    return machine


def serving(machine: Machine) -> bool:
    return machine.run("systemctl", "is-active", "hub-runner-supervisor", check=False).strip() == "active"


def test_the_supervisor_runs_jobs_one_by_one_and_survives_being_killed(service: Machine) -> None:
    machine = service
    machine.write("/srv/hub-tests/wait", "")
    hub_runner(machine, "resume", str(STORE_SLOT))
    machine.wait("a runner", lambda: phase(machine, STORE_SLOT) == "running")
    assert active(machine, STORE_SLOT)
    (first,) = github(machine)["runners"].values()
    assert first["name"].startswith("host-a-2-")
    github(machine, {"busy": True})

    before = machine.run("systemctl", "show", "--property=MainPID", "hub-runner-supervisor").strip()
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "hub-runner-supervisor")
    machine.wait(
        "its death",
        lambda: before not in machine.run("systemctl", "show", "--property=MainPID", "hub-runner-supervisor"),
    )
    assert active(machine, STORE_SLOT)
    machine.wait("the next supervisor", lambda: serving(machine))
    assert phase(machine, STORE_SLOT) == "running"

    for unit in (
        "reload-or-restart hub-runner-firewall",
        "restart hub-runner-registrar.socket",
    ):  # as an installation does
        machine.run("systemctl", *unit.split())
    assert active(machine, STORE_SLOT)
    hub_runner(machine, "drain", str(STORE_SLOT))
    machine.wait("an answer to the drain", lambda: any("DELETE" in call for call in github(machine)["calls"]))
    assert active(machine, STORE_SLOT)  # draining never cuts a job off
    github(machine, {"busy": False})
    machine.run("rm", "/srv/hub-tests/wait")
    machine.wait("the job's end", lambda: phase(machine, STORE_SLOT) == "free")
    assert facts(machine, STORE_SLOT)["write"]["/srv/hub-tests/x"] == "written"  # the store's writer may
    assert github(machine)["runners"] == {}
    assert [call for call in github(machine)["calls"] if "generate-jitconfig" in call] == [
        "POST /repos/org/repo/actions/runners/generate-jitconfig"
    ]


def test_a_second_supervisor_is_refused(service: Machine) -> None:
    service.wait("the service", lambda: serving(service))
    with pytest.raises(AssertionError, match="slot 0 is taken by pid"):
        hub_runner(service, "supervise")


def test_a_host_without_its_gpus_is_quarantined_and_says_why(service: Machine) -> None:
    hub_runner(service, "resume", str(GPU_SLOT))
    service.wait("the doctor's word", lambda: phase(service, GPU_SLOT) == "quarantined")
    reason = json.loads(hub_runner(service, "status", "--json", check=False))[GPU_SLOT]["reason"]
    assert "gpus:" in reason
    metric = 'hub_runner_slot_phase{slot="0",phase="quarantined"} 1'
    service.wait("the metric", lambda: metric in service.run("cat", "/run/hub-runner/metrics.prom"))
