"""`python -m benchmarks [name …]`: measure, and print a Markdown table. Exit code 1 when a target is missed."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks._figure import show

NAMES = ("startup", "transfer", "memory", "throughput", "slow_link", "store", "suite", "verdict_cost", "report")
"""What is measured when nothing is named: some minutes."""
LONG = ("mutation", "classes", "precision", "overlay")
"""Measured when named: many minutes."""


def main(argv: list[str] | None = None) -> int:
    """Run those that are named, or the short ones."""
    known = (*NAMES, *LONG)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(known)} (default: all but {', '.join(LONG)})")
    chosen = parser.parse_args(argv).name or NAMES
    if unknown := set(chosen) - set(known):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    figures = []
    for name in chosen:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures += importlib.import_module(f"benchmarks.{name}").figures()
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
