"""An ordinary user of this machine, who can read the interpreters of the tests wherever they lie."""

from __future__ import annotations

import site
import sys
from pathlib import Path

USER = 12345


def find_closed_parent(path: Path) -> Path | None:
    """Return the outermost directory above `path` that others may not enter."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)


def list_interpreter_paths() -> list[Path]:
    """List what this interpreter is made of: its environment, what is below it, and linked directories."""
    found = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]]
    for directory in site.getsitepackages():
        for record in Path(directory).glob("*.pth"):
            lines = record.read_text(encoding="utf-8").splitlines()
            found += [Path(line) for line in lines if line.startswith("/") and Path(line).is_dir()]
    return list(dict.fromkeys(found))


def become_ordinary(user: int = USER) -> list[str]:
    """Return the words before a command that run it as `user`, in a mount namespace with open ways to this interpreter.

    Nothing of the machine changes: a closed directory is covered by an empty one that holds the interpreter's parts.
    """
    steps = ["set -e", "hold=$(mktemp -d)", "mount -t tmpfs tmpfs $hold"]
    closed = [(path, parent) for path in list_interpreter_paths() if (parent := find_closed_parent(path))]
    for number, (path, _) in enumerate(closed):
        steps += [f"mkdir $hold/{number}", f"mount --bind {path} $hold/{number}"]
    for parent in dict.fromkeys(parent for _, parent in closed):
        steps.append(f"mount -t tmpfs -o mode=0755 tmpfs {parent}")
    for number, (path, _) in enumerate(closed):
        steps += [f"mkdir -p {path}", f"mount --bind $hold/{number} {path}"]
    steps += ["umount -l $hold", "rmdir $hold"]
    become = f'exec setpriv --reuid={user} --regid={user} --clear-groups "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", "; ".join([*steps, become]), "sh"]
