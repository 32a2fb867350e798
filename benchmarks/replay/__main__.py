"""Replays Fast-LLM's own fixed bugs: each is put back, and hub-tests' judge must be red with it and green without it.

    python -m benchmarks.replay --source CHECKOUT --python PYTHON [--out DIRECTORY] [NAME ...]

The checkout is only read; it is at the commit that counts as fixed, and its history must hold the fix commits that are
reversed. The exit code is 1 where a state after its fix is not green, or where the targets are missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.replay.judging import Laboratory
from benchmarks.replay.pairs import PAIRS
from benchmarks.replay.records import CannotRunError, Finding, Pair, PairResult
from benchmarks.replay.recreation import copy_checkout, read_commit, recreate, restore
from benchmarks.replay.results import describe_result, meets_targets, read_results, summarize, write_results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def main(words: list[str] | None = None) -> int:
    """Replay the named pairs, or all, and write the results after each.

    A run that is killed keeps what it saw. What an earlier run over the same commit wrote about other pairs stays.
    """
    options = read_options(words)
    chosen = [pair for pair in PAIRS if not options.names or pair.name in options.names]
    results: dict[str, PairResult] = {}
    with tempfile.TemporaryDirectory(prefix="hub-tests-replay-") as scratch:
        copy = copy_checkout(options.source, Path(scratch) / "checkout")
        commit = read_commit(copy)
        if options.out:
            results |= {result.pair.name: result for result in read_results(options.out, commit, PAIRS)}
        for result in replay(chosen, copy, Laboratory(Path(scratch), options.python)):
            results[result.pair.name] = result
            print(describe_result(result), file=sys.stderr, flush=True)
            if options.out:
                write_results(sort_results(results), options.out, commit)
    seen = sort_results(results)
    print(summarize(seen))
    return 0 if meets_targets(seen) else 1


def sort_results(results: Mapping[str, PairResult]) -> list[PairResult]:
    """Return results in the order of the table of pairs."""
    return [results[pair.name] for pair in PAIRS if pair.name in results]


def read_options(words: list[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown pair is an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__.splitlines()[0])
    names = [pair.name for pair in PAIRS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pairs of {', '.join(names)}; default: all")
    parser.add_argument("--source", type=Path, required=True, help="git checkout of Fast-LLM with its history")
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has Fast-LLM's dependencies")
    parser.add_argument("--out", type=Path, help="directory for replay.json and replay.md")
    options = parser.parse_args(words)
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown pairs: {', '.join(sorted(unknown))}")
    return options


def replay(pairs: list[Pair], copy: Path, laboratory: Laboratory) -> Iterator[PairResult]:
    """Yield the result of each pair.

    All states after a fix are the same commit: one that was judged on a model with the same checks is not judged again.
    """
    fixed: dict[object, Finding] = {}
    for pair in pairs:
        yield replay_pair(pair, copy, laboratory, fixed)


def replay_pair(pair: Pair, copy: Path, laboratory: Laboratory, fixed: dict[object, Finding]) -> PairResult:
    """Judge the commit with the bug and the commit itself.

    `fixed` keeps what the commit itself gave, by model and checks.
    """
    started = time.perf_counter()
    result = PairResult(pair)
    try:
        recreate(pair, copy)
        before = laboratory.judge_state(pair, copy)
        restore(copy)
        key = (pair.model.name if pair.model else "", pair.checks, *pair.variant.items())
        if key not in fixed:
            fixed[key] = laboratory.judge_state(pair, copy)
        result = replace(result, before=before, after=fixed[key])
    except CannotRunError as problem:
        result = replace(result, reason=str(problem))
    finally:
        with suppress(CannotRunError):
            restore(copy)
    return replace(result, seconds=time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
