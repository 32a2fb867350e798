"""`python -m benchmarks [name …]`: measure, and print a Markdown table. Exit code 1 when a target is missed."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks._figure import show

NAMES = ("startup", "transfer", "memory", "throughput", "suite", "report")


def main() -> int:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(NAMES)} (default: all)")
    chosen = parser.parse_args().name or NAMES
    if unknown := set(chosen) - set(NAMES):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    figures = []
    for name in chosen:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures += importlib.import_module(f"benchmarks.{name}").figures()
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
