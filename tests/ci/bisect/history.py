"""A synthetic git history of a stand-in subject: one file, in which one commit plants a bug."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

FILE = "subject.py"
GOOD, BUG, UNBUILDABLE = "def forward(x): return x", "def forward(x): return x + 1", "def forward("


def write_history(root: Path, size: int, first_bad: int, unbuildable: Collection[int] = ()) -> list[str]:
    """Write `size` commits to a new repository, bad from `first_bad` on, and return them, oldest first."""
    stream = []
    for at in range(size):
        source = UNBUILDABLE if at in unbuildable else BUG if at >= first_bad else GOOD
        text = f"{source}\n# {at}\n"
        who = f"A <a@b> {1_790_000_000 + at} +0000"
        head = f"commit refs/heads/main\nmark :{at + 1}\nauthor {who}\ncommitter {who}\n"
        subject = f"change {at}"
        stream.append(f"{head}data {len(subject)}\n{subject}\nM 100644 inline {FILE}\ndata {len(text)}\n{text}\n")
    run_git(root, "init", "--quiet", "--initial-branch=main", str(root))
    run_git(root, "fast-import", "--quiet", text="".join(stream))
    return run_git(root, "rev-list", "--reverse", "main").split()


def run_git(root: Path, *words: str, text: str | None = None) -> str:
    """Runs git in the repository and returns what it printed."""
    root.mkdir(exist_ok=True, parents=True)
    done = subprocess.run(["git", *words], cwd=root, input=text, capture_output=True, text=True, check=True)
    return done.stdout.strip()
