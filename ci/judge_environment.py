"""What the judge inherits: variables that could make it run other code, and the programs that it starts.

An earlier step of a job can set variables for all later ones (GITHUB_ENV, GITHUB_PATH), and a shell's profile can too.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DROPPED_VARIABLES = re.compile(r"(?:GITHUB|ACTIONS|RUNNER|INPUT|PYTHON|PYTEST)_?[A-Z_]*|LD_(?:PRELOAD|AUDIT)|BASH_ENV")
"""Variables that could change what the judge runs (an earlier step can set them in Actions), or that hold tokens."""

CODE_VARIABLES = re.compile(
    r"PYTHON(?:PATH|HOME|STARTUP|PLATLIBDIR|USERBASE|PYCACHEPREFIX|CASEOK|INSPECT|BREAKPOINT|WARNINGS|EXECUTABLE|MALLOC)"
    r"|PYTEST_[A-Z_]*|LD_(?:PRELOAD|AUDIT)|BASH_ENV|ENV"
)
"""Those by which an interpreter, the loader, pytest or a shell runs code that hub-tests did not choose.

https://docs.python.org/3/using/cmdline.html#environment-variables, ld.so(8), bash(1) "BASH_ENV"
"""

REPOSITORY_VARIABLES = re.compile(
    r"GIT_(?:DIR|WORK_TREE|COMMON_DIR|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|NAMESPACE|PREFIX"
    r"|CEILING_DIRECTORIES|EXEC_PATH|EXTERNAL_DIFF|TEMPLATE_DIR|ATTR_SOURCE|REPLACE_REF_BASE|GRAFT_FILE|SHALLOW_FILE)"
)
"""Those by which git looks at another repository or runs another program; a hook sets some of them.

https://git-scm.com/docs/git#_environment_variables
"""

LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Lets PyTorch ask for transparent huge pages: the system gives and takes gigabytes in half the processor time.

https://docs.kernel.org/admin-guide/mm/transhuge.html; torch reads it in c10/core/impl/alloc_cpu.cpp.
"""

SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"
START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'hub-tests'; "
    "from ci.__main__ import main; sys.exit(main())"
)
"""Starts the command line in an isolated interpreter, with this very package before all others."""


def restart_isolated(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Replace this process by an isolated one where a variable could have changed what it runs.

    Code that such a variable named has run in this process by then, and could have prevented it: start `python -I`
    where the variables are not trusted, as the workflows do.
    """
    if any(CODE_VARIABLES.fullmatch(name) for name in environ):
        kept = {name: value for name, value in environ.items() if not CODE_VARIABLES.fullmatch(name)}
        package = str(Path(__file__).parents[1])
        os.execve(sys.executable, [sys.executable, "-I", "-c", START, package, *arguments], kept)  # noqa: S606


def make_suite_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the suite's process: none that changes what it runs, and none of the runner's."""
    return {name: value for name, value in environ.items() if not DROPPED_VARIABLES.fullmatch(name)}


def make_git_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for git, which then looks at the repository that it is told."""
    dropped = (REPOSITORY_VARIABLES, CODE_VARIABLES)
    return {name: value for name, value in environ.items() if not any(kind.fullmatch(name) for kind in dropped)}


def find_system_program(name: str) -> str:
    """Return the system's program of a name, else the path's, else the name."""
    return shutil.which(name, path=SYSTEM_PATH) or shutil.which(name) or name
