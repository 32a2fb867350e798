"""What the stand-ins for upstream actions do, on folders below $E2E_ROOT. Standard library only."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ["E2E_ROOT"])


def given(name: str, default: str = "") -> str:
    """An input of the action."""
    return os.environ.get(f"IN_{name.upper().replace('-', '_')}", "") or default


def checkout() -> None:
    """Clone a bare repository and check out a commit. Without a name it is the workflow's own repository.

    act knows no `job.workflow_repository`, which the checkout into `service` asks for: that is the service's.
    """
    target = Path(given("path", "."))
    own = "service" if target.name == "service" else os.environ["GITHUB_REPOSITORY"]
    source = ROOT / "git" / f"{given('repository', own)}.git"
    if given("persist-credentials", "true") != "false":
        raise SystemExit("persist-credentials must be false")
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(source), str(target)], check=True)
    subprocess.run(["git", "-C", str(target), "checkout", "--quiet", given("ref", "HEAD")], check=True)


def upload() -> None:
    """Keep a folder under the artifact's name, unless this test loses it."""
    source, name = Path(given("path")), given("name")
    if fnmatch.fnmatch(name, os.environ.get("E2E_LOSE", "")) or not source.exists():
        return
    target = ROOT / "artifacts" / name
    if target.exists() and given("overwrite") != "true":
        raise SystemExit(f"an artifact called {name} is there already")
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.mkdir(parents=True)
        shutil.copy2(source, target)
    by_run = ROOT / "artifacts-by-run" / os.environ["GITHUB_RUN_ID"] / name  # for GitHub's listing of all runs
    shutil.copytree(target, by_run, symlinks=True, dirs_exist_ok=True)


def download() -> None:
    """Fetch one artifact by name, or each that matches a pattern into a folder of its own."""
    target = Path(given("path", "."))
    target.mkdir(parents=True, exist_ok=True)
    if name := given("name"):
        if name == os.environ.get("E2E_SWAP"):  # as another job of the run could
            shutil.copytree(ROOT / "swapped", target, dirs_exist_ok=True)
            return
        shutil.copytree(ROOT / "artifacts" / name, target, dirs_exist_ok=True, symlinks=True)
        return
    for found in sorted((ROOT / "artifacts").glob(given("pattern", "*"))):
        shutil.copytree(found, target / found.name, symlinks=True)


def restore() -> None:
    """The cache of exactly the key, else the newest of a prefix."""
    caches = ROOT / "caches"
    wanted, output = given("key"), Path(os.environ["GITHUB_OUTPUT"])
    newest = sorted(caches.glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    prefixes = given("restore-keys").split()
    hit = next((c for c in newest if c.name == wanted), None)
    hit = hit or next((c for prefix in prefixes for c in newest if c.name.startswith(prefix)), None)
    with output.open("a") as file:
        file.write(f"cache-primary-key={wanted}\ncache-matched-key={hit.name if hit else ''}\n")
    if hit:
        shutil.copytree(hit, given("path"), dirs_exist_ok=True)


def save() -> None:
    """Keep a folder under the key."""
    shutil.copytree(given("path"), ROOT / "caches" / given("key"))


if __name__ == "__main__":
    {"checkout": checkout, "upload": upload, "download": download, "restore": restore, "save": save}[sys.argv[1]]()
