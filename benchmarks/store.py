"""What a store costs: a hit that is hashed, a hit with a record, a copy through a remote place, a killed holder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._figure import Figure, show
from ci.hub import verified
from ci.hub.manifest import MANIFEST, RULES_VERSION, SCHEMA, FileEntry, Manifest, TensorEntry, encode_manifest
from ci.hub.read_through import copy_from_remote
from ci.hub.remote_store import RemoteStore
from ci.hub.store import Store
from ci.hub.store_paths import CheckpointKey, StorePaths

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY = CheckpointKey("owner/model", "0" * 40, 2)
FILES = 4
SIZE = 250 * 10**6
ROUNDS = 3
HOLDER = """
import sys, time
from pathlib import Path
from ci.hub.store import Store
from benchmarks.store import KEY
print(Store(Path(sys.argv[1])).claim_partial(KEY) is not None, flush=True)
time.sleep(600)
"""


def figures() -> list[Figure]:
    """Measure each on a checkpoint of 1 GB in four files, in this run."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / "store")
        path = _add(store)
        return [*_measure_hits(store, path), _measure_copy(store, Path(scratch)), *_measure_killed_holders(store)]


def _add(store: Store) -> Path:
    store.create_directories()
    partial = store.claim_partial(KEY)
    if partial is None:
        raise SystemExit("the store is in use")
    files = {}
    for number in range(FILES):
        name, content = f"model-{number}.safetensors", os.urandom(SIZE)
        (partial.path / name).write_bytes(content)
        files[name] = FileEntry(SIZE, hashlib.sha256(content).hexdigest())
    tensors = {
        name: TensorEntry("U8", (SIZE,), str(entry.sha256), name, name, 0, SIZE) for name, entry in files.items()
    }
    manifest = Manifest(
        SCHEMA, KEY.model_id, KEY.commit, RULES_VERSION, 2, 2, False, SIZE * FILES, files, tensors, files
    )
    (partial.path / MANIFEST).write_bytes(encode_manifest(manifest))
    return store.finish(KEY, partial)


def _measure_hits(store: Store, path: Path) -> list[Figure]:
    time.sleep(verified.SETTLED + 0.5)
    record = StorePaths(store.root).verified_path(path)
    names = sorted(path.glob("*.safetensors"))
    hashed, trusted, bare = [], [], []
    for _ in range(ROUNDS):
        record.unlink(missing_ok=True)
        hashed.append(_measure_cpu(lambda: store.find_verified(KEY)))
        trusted.append(_measure_cpu(lambda: store.find_verified(KEY)))
        bare.append(_measure_cpu(lambda: _hash_files(names)))
    whole = FILES * SIZE / 1e9
    file_system = verified.read_file_system(store.root)
    how = f"{min(hashed) / whole:.2f} against {min(bare) / whole:.2f} processor s/GB, best of {ROUNDS}"
    seen = f"{min(trusted) * 1000:.1f} ms instead of {min(hashed) * 1000:.0f} ms, on {file_system}"
    return [
        Figure("a hit that is hashed ÷ bare SHA-256 of its files", min(hashed) / min(bare), "≤", 1.2, how=how),
        Figure("a hit with a record ÷ a hit that is hashed", min(trusted) / min(hashed), "≤", 0.05, how=seen),
    ]


def _measure_copy(store: Store, scratch: Path) -> Figure:
    remote = RemoteStore(f"file://{scratch}/place")
    stored = store.find(KEY)
    if stored is None:
        raise SystemExit("the checkpoint is gone")
    remote.upload(KEY, stored)
    ours, bare = [], []
    for number in range(ROUNDS):
        target = Store(scratch / f"copy{number}")
        ours.append(_measure_cpu(lambda target=target: copy_from_remote(target, remote, KEY)))  # type: ignore[misc]
        shutil.rmtree(target.root)
        bare.append(_measure_cpu(lambda: _copy_and_hash(scratch / "place", scratch / "bare")))
        shutil.rmtree(scratch / "bare")
    how = f"{min(ours):.2f} against {min(bare):.2f} processor s for 1 GB, best of {ROUNDS}"
    return Figure("a copy from a remote place ÷ a bare copy and SHA-256", min(ours) / min(bare), "≤", 1.5, how=how)


def _measure_killed_holders(store: Store) -> list[Figure]:
    """Measure how long the next fetch waits for one that was killed: on this machine, and as if on another."""
    results = []
    for where, target in (("this machine", 2.0), ("another machine", 45.0)):
        key = replace(KEY, layers=3 if where == "this machine" else 4)
        code = HOLDER.replace("claim_partial(KEY)", f"claim_partial({key!r})")
        code = code.replace("import KEY", "import CheckpointKey")
        with subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE) as holder:
            if holder.stdout is None or holder.stdout.readline() != b"True\n":
                raise SystemExit("the holder could not claim its directory")
            (lease,) = (store.root / "leases").glob(f"*-L{key.layers}.*.lease")
            if where == "another machine":
                owner = json.loads(lease.read_bytes())
                lease.write_text(json.dumps({**owner, "place": "elsewhere", "kernel": "another boot"}))
            holder.kill()
        started = time.monotonic()
        while store.claim_partial(key) is None:
            time.sleep(0.1)
        waited = time.monotonic() - started
        results.append(Figure(f"wait for a fetch that was killed on {where}", waited, "≤", target, "s"))
    return results


def _measure_cpu(work: Callable[[], object]) -> float:
    """Return the processor seconds of this process, which a loaded machine does not stretch much."""
    before = time.process_time()
    work()
    return time.process_time() - before


def _copy_and_hash(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    _hash_files(sorted(target.rglob("*.safetensors")))


def _hash_files(paths: Sequence[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


if __name__ == "__main__":
    sys.exit(show(figures()))
