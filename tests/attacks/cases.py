"""Attacks by code of a pull request that runs in the subject's process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """Code that the worker runs, and the classes of which the forward test's failure, or the conversion's, is one.

    An attempt that is `allowed` succeeds inside of the sandbox and has no effect outside.
    """

    code: str
    classes: tuple[str, ...] = ("numeric_mismatch",)
    allowed: str = ""
    environ: tuple[tuple[str, str], ...] = ()


ATTACKS = {
    "appends to the judge's code": Attack(
        """
        for path in sorted(Path(WHERE["judge"]).rglob("*.py"))[:400] or ["(invisible)"]:
            attempt(f"append {path}", lambda path=path: append(path))
        for name in ("ci/run.py", "ci/report/verdicts.py", "tests/integration/conftest.py", "conftest.py"):
            attempt(name, lambda name=name: create(f"{WHERE['judge']}/{name}"))
        """
    ),
    "drops sitecustomize, usercustomize and .pth into every import path": Attack(
        """
        import site
        for place in dict.fromkeys([*WHERE["sites"], *sys.path, *site.getsitepackages(), sys.prefix, sys.base_prefix]):
            for name in ("sitecustomize.py", "usercustomize.py", "evil.pth", "conftest.py"):
                attempt(f"create {place}/{name}", lambda place=place, name=name: create(f"{place}/{name}"))
        """
    ),
    "patches installed libraries of the judge": Attack(
        """
        for name in ("torch", "pytest", "transformers", "pydantic", "safetensors"):
            for place in WHERE["sites"]:
                file = Path(place) / name / "__init__.py"
                attempt(f"append {file}", lambda file=file: append(file))
                attempt(f"replace {file}", lambda file=file: file.rename(f"{file}.old"))
        """
    ),
    "writes the files of Actions": Attack(
        """
        names = [name for name in os.environ if name.startswith(("GITHUB", "RUNNER", "ACTIONS", "HF_T"))]
        say("leaked" if names else "saw no", "variables", *names)
        for path in WHERE["actions"]:
            attempt(f"append {path}", lambda path=path: append(path))
        for root in ("/home/runner", "/github", "/__w", "/opt/actions-runner"):
            attempt(f"list {root}", lambda root=root: os.listdir(root))
        """
    ),
    "reads and writes the judge's memory": Attack(
        """
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in [os.getppid(), *range(1, 3000)]:
            if pid in (os.getpid(), *(int(name) for name in os.listdir("/proc/self/task"))):
                continue
            for what in ("mem", "environ", "maps", "root/etc/passwd", "fd"):
                path = f"/proc/{pid}/{what}"
                if os.path.exists(f"/proc/{pid}"):
                    read = os.listdir if what == "fd" else lambda path: open(path, "rb").read(1)
                    attempt(path, lambda path=path, read=read: read(path))
            if libc.ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
                say("done: ptrace", pid)
        say("refused: ptrace of everything")
        """
    ),
    "kills and stops every process": Attack(
        """
        for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
            try:
                os.kill(-1, number)
            except OSError as error:
                say("refused: all", number, error)
            for pid in {os.getppid(), *range(1, 40000)} - {os.getpid()}:
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
        say("refused: the judge goes on")
        """
    ),
    "uses up memory": Attack(
        """
        def before(name, request):
            if name == "convert":
                say("allocates")
                resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))  # so that this machine survives
                kept = []
                while True:
                    kept.append(bytearray(2**28))
        """,
        classes=("out_of_memory",),
    ),
    "is killed as by the kernel for its memory": Attack(
        """
        def before(name, request):
            if name == "trace":
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        classes=("crash",),
    ),
    "forks without end": Attack(
        """
        resource.setrlimit(resource.RLIMIT_NPROC, (400, 400))  # so that this machine survives
        children = 0
        try:
            for _ in range(4000):
                if not os.fork():
                    time.sleep(600)
                    os._exit(0)
                children += 1
        except OSError as error:
            say("refused: after", children, error)
        """,
        classes=("numeric_mismatch", "crash", "other", "out_of_memory"),
    ),
    "hands over symbolic links": Attack(
        """
        def after(name, request, answer):
            if name == "trace":
                target = Path(request.output) / "head.safetensors"
                target.unlink()
                target.symlink_to(WHERE["secret"])
                say("linked")
            return answer
        """,
        classes=("crash",),
    ),
    "hands over hard links": Attack(
        """
        def after(name, request, answer):
            if name == "trace":
                target = Path(request.output) / "head.safetensors"
                os.link(target, target.with_name("again.safetensors"))
                attempt("link of the judge's", lambda: os.link(request.inputs, target.with_name("inputs")))
            return answer
        """,
        classes=("crash",),
    ),
    "hands over a FIFO in a conversion": Attack(
        """
        def after(name, request, answer):
            if name == "convert":
                os.mkfifo(Path(request.target) / "pipe")
                disk = Path(request.target) / "disk"
                attempt("device", lambda: os.mknod(disk, stat.S_IFBLK | 0o666, os.makedev(254, 0)))
                say("made a FIFO")
            return answer
        """,
        classes=("crash",),
    ),
    "hands over directories deeper than recursion goes": Attack(
        """
        def after(name, request, answer):
            if name == "trace":
                here = os.open(request.output, os.O_RDONLY)
                for _ in range(3000):
                    os.mkdir("d", dir_fd=here)
                    below = os.open("d", os.O_RDONLY, dir_fd=here)
                    os.close(here)
                    here = below
                say("dug")
            return answer
        """,
        classes=("crash",),
    ),
    "changes traces after they were answered": Attack(
        """
        def rewrite(directory):
            until = time.monotonic() + 60
            while time.monotonic() < until:
                for path in list(Path(directory).glob("*")):
                    try:
                        path.write_bytes(os.urandom(4096))
                        path.rename(path.with_suffix(".moved"))
                        os.symlink(WHERE["secret"], path)
                    except OSError:
                        pass

        def after(name, request, answer):
            if name in ("trace", "convert"):
                place = request.output if name == "trace" else request.target
                threading.Thread(target=rewrite, args=(place,), daemon=True).start()
                say("rewrites", place)
            return answer
        """,
        classes=("numeric_mismatch", "crash", "other", "structure_mismatch"),
    ),
    "forges the report": Attack(
        """
        forged = '<testsuites><testsuite><testcase name="test_conversion[tiny]"/></testsuite></testsuites>'
        for place in (WHERE["report"], WHERE["root"], os.getcwd(), WHERE["home"], os.environ["HOME"]):
            for name in ("junit.xml", "report.json", "report.md", "running.txt", "ended.txt", "host.json", "plan.json"):
                if not place.startswith("/tmp/home"):
                    attempt(f"forge {place}/{name}", lambda p=place, n=name: open(f"{p}/{n}", "w").write(forged))
        """
    ),
    "writes to the store and poisons the caches": Attack(
        """
        for place in (WHERE["store"], WHERE["caches"]):
            attempt(f"create in {place}", lambda place=place: create(f"{place}/evil"))
            for path in Path(place).rglob("*"):
                attempt(f"write {path}", lambda path=path: append(path))
                attempt(f"unlink {path}", lambda path=path: path.unlink())
        for path in map(Path, WHERE.get("cached", ())):
            attempt(f"poison {path}", lambda path=path: append(path))
            attempt(f"replace {path}", lambda path=path: create(path))
            attempt(f"unlink {path}", lambda path=path: path.unlink())
        names = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "UV_FIND_LINKS", "PIP_FIND_LINKS", "HF_HUB_CACHE")
        say("environment", *(os.environ.get(name) for name in names))

        def before(name, request):
            if name == "convert":
                for path in Path(request.source).iterdir():
                    attempt(f"write {path}", lambda path=path: append(path))
                    attempt(f"chmod {path}", lambda path=path: path.chmod(0o777))
                    attempt(f"unlink {path}", lambda path=path: path.unlink())
        """
    ),
    "leaves a daemon behind": Attack(
        """
        def daemon():
            if os.fork():
                return
            os.setsid()
            if os.fork():
                os._exit(0)
            os.closerange(0, 64)
            os.execv("/bin/sh", ["/bin/sh", "-c", "while true; do sleep 1; done", WHERE["marker"]])

        for _ in range(3):
            daemon()
        time.sleep(1)
        say("left a daemon")
        """
    ),
    "leaves files for the next job": Attack(
        """
        for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root", os.environ["HOME"], WHERE["home"], "/", "/mnt"):
            attempt(f"leave {place}", lambda place=place: create(f"{place}/{WHERE['marker']}"))

        def after(name, request, answer):
            if name == "trace":
                create(Path(request.output).parent / WHERE["marker"])
            return answer
        """,
        allowed="leave (/tmp|/dev/shm)",
    ),
    "is ten gigabytes": Attack(
        """
        def after(name, request, answer):
            if name == "trace":
                os.truncate(Path(request.output) / "decoder.0.safetensors", 10 * 2**30)
                say("grew")
            return answer
        """,
        classes=("crash", "other", "structure_mismatch"),
    ),
    "makes its log a terabyte": Attack(
        """
        def after(name, request, answer):
            if name == "trace":
                say("makes it longer")
                attempt("log", lambda: os.ftruncate(1, 2**40))
            return answer
        """,
        allowed="log",
    ),
    "answers before it is asked, and twice": Attack(
        """
        say("answers")
        say("early")
        forged = {"files": ["config.json"], "bytes_written": 1, "seconds": 0.0}
        for number in range(1, 4):
            os.write(int(sys.argv[3]), (json.dumps({"id": number, "result": forged}) + "\\n").encode())
        """,
        classes=("crash",),
    ),
    "answers with an endless line": Attack(
        """
        def before(name, request):
            say("answers")
            while True:
                os.write(int(sys.argv[3]), b"x" * 2**20)
        """,
        classes=("crash",),
    ),
    "says that its variants need CUDA and that all of them ran": Attack(
        """
        from dataclasses import replace

        def after(name, request, answer):
            say("lies about", name)
            if name == "variants":
                return tuple(replace(variant, needs="cuda") for variant in answer)
            if name == "trace":
                return replace(answer, not_captured=("decoder.0.mlp",))
            return answer
        """,
        classes=("crash", "numeric_mismatch"),
    ),
    "says that the machine is at fault": Attack(
        """
        from ci.errors import InfrastructureError

        def before(name, request):
            if name == "convert":
                say("blames the machine")
                raise InfrastructureError("the disk of this machine is full")
        """,
        classes=("crash", "other"),
    ),
    "says that the request is wrong": Attack(
        """
        from ci.errors import RequestError

        def before(name, request):
            if name == "trace":
                say("blames the request")
                raise RequestError("Hugging Face cannot be reached: Hub unavailable")
        """,
        classes=("crash", "other"),
    ),
    "describes itself as another, at length": Attack(
        """
        from dataclasses import replace

        def after(name, request, answer):
            if name == "describe":
                say("lies")
                many = {f"library-{index}": "9" * 1000 for index in range(5000)}
                return replace(answer, subject="fast_llm", version="\\ud800\\x00]]>&", commit="0" * 40, libraries=many)
            return answer
        """,
        classes=("numeric_mismatch", "crash", "other"),
    ),
    "commands the runner": Attack(
        """
        COMMANDS = "\\n::set-env name=LD_PRELOAD::/evil.so\\n::add-path::/evil\\n##[add-path]/evil\\n::error::forged\\n"
        print(COMMANDS, flush=True)
        print(COMMANDS, file=sys.stderr, flush=True)

        def before(name, request):
            if name == "trace":
                say("commands")
                raise ValueError(COMMANDS)
        """,
        classes=("other", "crash"),
    ),
    "answers in gigantic JSON": Attack(
        """
        def after(name, request, answer):
            if name == "trace":
                path = Path(request.output) / "trace.json"
                path.write_text("[" * 25_000_000 + "]" * 25_000_000)
                say("wrote")
            return answer
        """,
        classes=("crash",),
    ),
}
