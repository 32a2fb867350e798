"""Attacks on a machine's compile cache: none changes the verdict of the next run, and nothing untrusted is kept.

The program under test here works as torch does: it runs the kernel that it finds compiled, else it compiles one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.cold_repeat import repeat_without_cache
from ci.equivalence.verdict import Verdict
from ci.errors import SubjectError
from ci.evidence import REPEATED
from ci.subjects import compile_layers
from ci.subjects.compile_cache import CompileCache
from ci.subjects.compile_layers import Layer, list_layers
from ci.subjects.open_subject import open_subject
from ci.subjects.sandbox import detect_isolation
from tests.attacks.scene import hash_tree
from tests.attacks.test_hand_over import PRELUDE, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.attacks.scene import Scene

ISOLATION = detect_isolation()
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}"),
]
KERNEL = """
COMPILED = Path(os.environ.get("TRITON_CACHE_DIR", "/tmp/none"))
SOURCE = 'VALUE = b"\\\\0"'
kernel = COMPILED / "ab" / "kernel.py"
print("found" if kernel.exists() else "compiles", flush=True)
if not kernel.exists():
    kernel.parent.mkdir(parents=True, exist_ok=True)
    kernel.write_text(SOURCE)
compiled = {}
exec(kernel.read_text(), compiled)
output.mkdir()
for scope, names in SCOPES.items():
    write_file(output / f"{scope}.safetensors", {name: SHAPES[name] for name in names}, fill=compiled["VALUE"])
(output / "trace.json").write_text(json.dumps(result()))
"""
DONE = "\nprint('attacked', flush=True)\nsend(number, result())"
SENT = "\nsend(number, result())"
HONEST = f"{KERNEL}{SENT}"


@dataclass
class Machine:
    """A machine that keeps compiled code in `cache`, and an interpreter that has always the same path."""

    root: Path
    runs: int = 0

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def run(
        self, code: str, *, fill: bool = False, cache: Path | None = None, timeout: float = 60
    ) -> tuple[Verdict, str]:
        """Judge a program; return the verdict and what it printed."""
        self.runs += 1
        place = self.root / f"run-{self.runs}"
        place.mkdir()
        python = self.root / "interpreter" / "python"
        python.write_text(f"#!{sys.executable}\n{PRELUDE}{textwrap.indent(textwrap.dedent(code), '    ')}")
        python.chmod(0o755)
        compile_cache = CompileCache(cache or self.cache, fill)
        with open_subject(
            "reference",
            python=python,
            timeout=timeout,
            log=place / "log",
            isolation=ISOLATION,
            compile_cache=compile_cache,
        ) as subject:
            verdict = repeat_without_cache(subject, lambda: judge(subject, place))
        return verdict, (place / "log").read_text(errors="replace")

    def layers(self) -> tuple[Layer, ...]:
        return list_layers(self.cache)


def judge(subject: Any, place: Path) -> Verdict:
    """Compare a trace with zeros."""
    shutil.rmtree(place / "compared", ignore_errors=True)
    (place / "compared").mkdir()
    try:
        diff = compare(subject, place / "compared")
    except SubjectError as failure:
        return Verdict(passed=False, failure_class="crash", diagnosis=str(failure))
    wrong = [name for name, tensor in diff.tensors.items() if tensor.max_abs]
    return Verdict(passed=not (wrong or diff.problems), failure_class="numeric_mismatch" if wrong else None)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine on which a trusted run has compiled the kernel."""
    monkeypatch.setattr(compile_layers, "MAX_FILES", 5000)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    (tmp_path / "interpreter").mkdir()
    machine = Machine(tmp_path)
    verdict, log = machine.run(HONEST, fill=True)
    assert verdict.passed, log
    assert "compiles" in log
    assert len(machine.layers()) == 1
    return machine


def test_a_warm_cache_is_used_and_says_so(machine: Machine) -> None:
    verdict, log = machine.run(HONEST)
    assert verdict.passed
    assert "found" in log
    assert "compiles" not in log
    assert "compile cache: 1 files (0.0 MiB) of 1 earlier runs" in log


POISON = "kernel.write_text('VALUE = b\"1\"')"
WRITES_ON = """[time.sleep(0.01) or kernel.write_text('VALUE = b"1"') for _ in range(10**6)]"""
PULL_REQUESTS = {
    "replaces the kernel by one with wrong numbers": POISON,
    "replaces it by a link to one": """
        kernel.unlink()
        (COMPILED / 'evil').write_text('VALUE = b"1"')
        kernel.symlink_to('../evil')
    """,
    "replaces its directory by a link": "shutil.rmtree(kernel.parent); kernel.parent.symlink_to('/tmp')",
    "renames the whole cache and links another": """
        os.rename(COMPILED, '/tmp/compiled/old')
        os.mkdir('/tmp/evil')
        os.symlink('/tmp/evil', COMPILED)
    """,
    "replaces the mounted directory itself": "attempt(lambda: os.rename('/tmp/compiled', '/tmp/old'))",
    "truncates the kernel": "os.truncate(kernel, 3)",
    "removes the kernel": "kernel.unlink()",
    "adds a kernel under another key": """
        (COMPILED / 'cd').mkdir()
        (COMPILED / 'cd' / 'kernel.py').write_text('VALUE = b"1"')
    """,
    "exchanges two kernels": """
        (COMPILED / 'x').write_text('VALUE = b"1"')
        os.rename(COMPILED / 'x', kernel)
    """,
    "links out of the cache": """
        for place in ('/etc', '/proc/1/root', '..'):
            os.symlink(place, COMPILED / f'link-{len(place)}')
    """,
    "gives a second name to a file": "os.link(kernel, COMPILED / 'second')",
    "links hard to a file of the system": "attempt(lambda: os.link('/etc/ld.so.cache', COMPILED / 'cache'))",
    "makes a pipe and a socket": """
        os.mkfifo(COMPILED / 'pipe')
        socket.socket(socket.AF_UNIX).bind(str(COMPILED / 'socket'))
    """,
    "makes a device": "attempt(lambda: os.mknod(COMPILED / 'null', stat.S_IFCHR | 0o666, os.makedev(1, 3)))",
    "makes directories a thousand deep": """
        os.chdir(COMPILED)
        for _ in range(1000):
            os.mkdir('d')
            os.chdir('d')
    """,
    "makes names with newlines": "(COMPILED / 'a\\n::error::b').write_text('')",
    "makes names that move the cursor": "(COMPILED / '\\x1b[2J').write_text('')",
    "makes a name of 250 characters": "(COMPILED / ('x' * 250)).write_text('')",
    "makes a file of a terabyte": "os.truncate(os.open(COMPILED / 'huge', os.O_CREAT | os.O_WRONLY), 2**40)",
    "makes more files than are allowed": "[(COMPILED / str(count)).touch() for count in range(6000)]",
    "sets the user and group bits": """
        (COMPILED / 'root').write_bytes(Path('/bin/true').read_bytes())
        os.chmod(COMPILED / 'root', 0o6777)
    """,
    "makes everything unreadable": "os.chmod(kernel, 0); os.chmod(kernel.parent, 0)",
    "writes on after its answer": f"threading.Thread(target=lambda: {WRITES_ON}, daemon=True).start()",
    "writes on in a process that outlives it": f"os.fork() or os.setsid() or {WRITES_ON}",
    "writes what the layer's header is called": "(COMPILED.parent / 'hub-tests-layer').write_text('0' * 32)",
    "looks for the machine's cache": """
        attempt(lambda: os.listdir('ROOT/cache'))
        attempt(lambda: os.mkdir('ROOT/cache'))
    """,
}
ATTEMPT = """
import shutil, socket, stat

def attempt(action):
    try:
        action()
    except OSError as refused:
        print("refused", refused, flush=True)
    else:
        print("done", flush=True)

"""


@pytest.mark.parametrize("name", PULL_REQUESTS)
def test_what_an_untrusted_run_leaves_reaches_no_other(name: str, machine: Machine) -> None:
    """Its own verdict may be anything; the cache stays as it was, byte by byte, and so does the next verdict."""
    before = hash_tree(machine.cache)
    attack = textwrap.dedent(PULL_REQUESTS[name]).replace("ROOT", str(machine.root))
    _, log = machine.run(f"{ATTEMPT}{KERNEL}{attack}{DONE}")
    assert "attacked" in log, log
    assert log.count("refused") == attack.count("attempt(")
    assert hash_tree(machine.cache) == before
    assert machine.layers()
    verdict, log = machine.run(HONEST)
    assert verdict.passed
    assert verdict.notes == ()
    assert "found" in log
    assert "compiles" not in log


REFUSED = [
    *("replaces its directory by a link", "renames the whole cache and links another", "links out of the cache"),
    *("gives a second name to a file", "makes a pipe and a socket", "makes directories a thousand deep"),
    *("makes names with newlines", "makes names that move the cursor", "makes a name of 250 characters"),
    *("makes a file of a terabyte", "makes more files than are allowed", "replaces it by a link to one"),
]


@pytest.mark.parametrize("name", REFUSED)
def test_odd_files_of_a_trusted_run_are_not_kept(name: str, machine: Machine) -> None:
    """The default branch is trusted, but only plain files of limited size, number and depth become a layer."""
    before = hash_tree(machine.cache)
    _, log = machine.run(f"{ATTEMPT}{KERNEL}{textwrap.dedent(PULL_REQUESTS[name])}{DONE}", fill=True)
    assert "attacked" in log, log
    assert "not kept: " in log
    assert hash_tree(machine.cache) == before, log
    assert list(machine.cache.iterdir()) == [machine.layers()[0].path]
    verdict, log = machine.run(HONEST)
    assert verdict.passed


def test_a_trusted_run_changes_no_entry_that_is_there(machine: Machine) -> None:
    """It may add; what it wrote over an entry is left out."""
    before = hash_tree(machine.cache)
    more = "(COMPILED / 'more').write_text('x'); os.chmod(COMPILED / 'more', 0o6777)"
    machine.run(f"{KERNEL}{POISON}\n{more}{SENT}", fill=True)
    after = hash_tree(machine.cache)
    assert before.items() < after.items()
    seen = "print('more', oct((COMPILED / 'more').stat().st_mode), flush=True)"
    verdict, log = machine.run(f"{KERNEL}{seen}{SENT}")
    assert verdict.passed
    assert "found" in log
    assert "more 0o100644" in log


def test_a_run_that_crashed_adds_nothing(machine: Machine) -> None:
    before = hash_tree(machine.cache)
    verdict, _ = machine.run(f"{KERNEL}(COMPILED / 'more').write_text('x'); os.abort()", fill=True)
    assert not verdict.passed
    assert hash_tree(machine.cache) == before


def _truncate(machine: Machine) -> None:
    os.truncate(machine.layers()[0].path, 700)


def _change_a_byte(machine: Machine) -> None:
    path = machine.layers()[0].path
    content = path.read_bytes()
    path.write_bytes(content.replace(b'VALUE = b"\\0"', b'VALUE = b"\\1"'))


def _replace_by(make: Callable[[Path], object]) -> Callable[[Machine], None]:
    def damage(machine: Machine) -> None:
        path = machine.layers()[0].path
        path.unlink()
        make(path)

    return damage


def _make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**42)


def _link_to_a_poisoned_layer(machine: Machine) -> None:
    """A whole layer of wrong numbers, from another cache, under this one's name."""
    path, other = machine.layers()[0].path, machine.root / "other"
    machine.run(f"{KERNEL}{POISON}{SENT}", fill=True, cache=other)
    path.unlink()
    path.symlink_to(list_layers(other)[0].path)


def _call_another_keys_layer_ours(machine: Machine) -> None:
    """The layer of another driver or another torch, renamed: its name's digest is right, its key is not."""
    mine = machine.layers()[0].path
    other = mine.with_name(f"{'0' * 32}{mine.name[32:]}")
    content = (
        mine.read_bytes().replace(mine.name[:32].encode(), b"0" * 32).replace(b'VALUE = b"\\0"', b'VALUE = b"\\1"')
    )
    digest = hashlib.sha256(content).hexdigest()
    other.write_bytes(content)
    mine.unlink()
    other.rename(mine.with_name(f"{mine.name[:32]}-{digest}.tar"))


def _let_everybody_write(machine: Machine) -> None:
    machine.cache.chmod(0o777)


def _leave_a_layer_of_another_torch(machine: Machine) -> None:
    mine = machine.layers()[0].path
    mine.rename(mine.with_name(f"{'1' * 32}{mine.name[32:]}"))


DAMAGES: dict[str, Callable[[Machine], None]] = {
    "truncated": _truncate,
    "a byte changed": _change_a_byte,
    "a link to a poisoned layer": _link_to_a_poisoned_layer,
    "another key's layer": _call_another_keys_layer_ours,
    "only another torch's layer": _leave_a_layer_of_another_torch,
    "empty": _replace_by(lambda path: path.write_bytes(b"")),
    "zeros": _replace_by(lambda path: path.write_bytes(bytes(10240))),
    "a pipe": _replace_by(os.mkfifo),
    "a directory": _replace_by(os.mkdir),
    "a link to a device": _replace_by(lambda path: path.symlink_to("/dev/zero")),
    "four terabytes": _replace_by(_make_huge),
    "in a directory of everybody": _let_everybody_write,
}


@pytest.mark.parametrize("fill", [False, True], ids=["reading", "filling"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_layer_is_not_used(name: str, fill: bool, machine: Machine) -> None:
    DAMAGES[name](machine)
    verdict, log = machine.run(HONEST, fill=fill)
    assert verdict.passed
    assert verdict.notes == ()
    assert "compiles" in log
    assert "found" not in log
    assert "0 files" in log
    assert "\n" not in log.split("compile cache: ")[1].rstrip("\n")


def test_a_stale_kernel_that_a_trusted_run_kept_makes_no_red_verdict(machine: Machine) -> None:
    """Wrong numbers from the cache itself: the check is repeated without, says so, and the night removes the layer."""
    poisoned = f"{KERNEL}{POISON}{SENT}"
    shutil.rmtree(machine.cache)
    machine.run(poisoned, fill=True)
    verdict, log = machine.run(HONEST)
    assert verdict.passed
    assert verdict.notes == (f"{REPEATED}then it passed, the compile cache was wrong",)
    assert log.index("found") < log.index("compiles")
    assert len(machine.layers()) == 1
    before = machine.layers()[0]
    verdict, log = machine.run(HONEST, fill=True)
    assert verdict.passed
    assert "which they had caused" in log
    assert [layer.digest for layer in machine.layers()] != [before.digest]
    verdict, log = machine.run(HONEST)
    assert verdict.passed
    assert verdict.notes == ()
    assert "compiles" not in log


@pytest.mark.parametrize("crash", ["os.abort()", "time.sleep(3600)", "raise SystemExit(3)"])
def test_a_kernel_that_crashes_from_the_cache_makes_no_red_verdict(crash: str, machine: Machine) -> None:
    """The call is made once more without, in a new process."""
    shutil.rmtree(machine.cache)
    bad = f"import os, time\n{crash}"
    machine.run(f"{KERNEL}kernel.write_text({bad!r}){SENT}", fill=True)
    verdict, log = machine.run(HONEST, timeout=5)
    assert verdict.passed, log
    assert log.index("found") < log.index("compiles")
    assert "dropped after a failure, which they had caused" in log


def test_a_wrong_subject_stays_wrong_with_a_warm_cache(machine: Machine) -> None:
    """The repetition excuses nothing: a subject with wrong numbers of its own is red, and says that it was repeated."""
    wrong = HONEST.replace('fill=compiled["VALUE"]', 'fill=b"1"')
    verdict, log = machine.run(wrong)
    assert not verdict.passed
    assert verdict.notes == (f"{REPEATED}it failed again",)
    assert log.index("found") < log.index("compiles")
    before = hash_tree(machine.cache)
    machine.run(wrong, fill=True)
    assert before.items() <= hash_tree(machine.cache).items(), "a wrong subject does not empty the cache"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_a_full_disk_costs_only_the_cache(machine: Machine, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(small)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here: no permission")
    try:
        verdict, log = machine.run(HONEST, fill=True, cache=small)
        assert verdict.passed
        assert "not kept: " in log
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_two_trusted_runs_at_once_keep_both(machine: Machine) -> None:
    """Both begin before either ends: each writes a layer of its own, and a third run reads both."""
    python = machine.root / "interpreter" / "python"
    write = "(COMPILED / f'by-{time.monotonic_ns()}').write_text('x')"
    python.write_text(f"#!{sys.executable}\n{PRELUDE}{textwrap.indent(f'{KERNEL}{write}{SENT}', '    ')}")
    cache = CompileCache(machine.cache, fill=True)
    with ExitStack() as stack:
        for number in range(2):
            place = machine.root / f"at-once-{number}"
            place.mkdir()
            opened = open_subject("reference", python=python, isolation=ISOLATION, compile_cache=cache)
            assert judge(stack.enter_context(opened), place).passed
    assert len(machine.layers()) == 3
    verdict, log = machine.run(f"{KERNEL}print(len(list(COMPILED.glob('by-*'))), 'others', flush=True){SENT}")
    assert verdict.passed
    assert "2 others" in log


COMPILES = """
import torch
from torch.nn import functional

from ci.subjects.reference import model

model.ACTIVATIONS["silu"] = torch.compile(lambda x: functional.silu(x), dynamic=True)


def after(name, request, answer):
    if name == "trace":
        from torch._dynamo.utils import counters

        say("inductor", json.dumps(dict(counters["inductor"])))
    return answer

"""
LEAVES_POISON = """
original = after


def after(name, request, answer):
    if name == "export":
        changed = 0
        for path in Path("/tmp/compiled").rglob("*"):
            if path.is_file():
                path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
                changed += 1
        say("poisoned", changed)
    return original(name, request, answer)

"""


def test_torch_compile_hits_the_cache_and_poison_does_not_stay(scene: Scene) -> None:
    """The real thing through `hub-tests run`: a night fills the cache, a pull request hits it and poisons its copy."""
    cache = scene.root / "compile-cache"
    told = []
    for code, words in ((COMPILES, ["--fill-compile-cache"]), (COMPILES + LEAVES_POISON, [])):
        done, results = scene.run(scene.write_subject(code, broken=False), "--compile-cache", str(cache), *words)
        assert results["verdict"] == "passed", done.stdout + done.stderr
        log = scene.read_log()
        counts = [json.loads(line.split("inductor ")[1]) for line in log if "inductor {" in line]
        cases = [case for entry in results["entries"] for case in entry["cases"]]
        given = max(case["evidence"]["figures"].get("compile_cache_files", 0) for case in cases)
        told.append((counts[-1], given, hash_tree(cache)))
    (cold, none, filled), (warm, some, after) = told
    assert cold.get("fxgraph_cache_miss", 0) > 0
    assert cold.get("fxgraph_cache_hit", 0) == none == 0
    assert warm.get("fxgraph_cache_miss", 0) == 0
    assert warm["fxgraph_cache_hit"] == cold["fxgraph_cache_miss"]
    assert some > 0
    assert any("poisoned" in line for line in log)
    assert filled == after
