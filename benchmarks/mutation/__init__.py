"""Bugs planted one at a time, and what share of them the judge catches, locates and attributes."""

from __future__ import annotations

import os
import sys

from benchmarks._figure import Figure


def figures(jobs: int | None = None) -> list[Figure]:
    """Plant every bug and judge a thousand right conversions; the table goes to stderr as Markdown."""
    from benchmarks.mutation.score import MutationOptions, markdown, run_mutation_score

    options = MutationOptions(jobs=jobs or os.cpu_count() or 1)
    score = run_mutation_score(options, progress=lambda line: print(line, file=sys.stderr, flush=True))
    print(markdown(score), file=sys.stderr)
    real, caught = len(score.real), score.caught
    alarms, clean = len(score.false_alarms), len(score.controls)
    return [
        Figure("planted bugs caught", caught / real, "=", 1.0, how=f"{caught} of {real}"),
        Figure(
            "located in the right layer and module", score.located / real, "≥", 0.95, how=f"{score.located} of {real}"
        ),
        Figure("right half", score.half_right / caught, "≥", 0.95, how=f"{score.half_right} of {caught} caught"),
        Figure("false alarms", alarms, "=", 0, how=f"{clean} right conversions"),
        Figure("right conversions judged", clean, "≥", 1000, how=f"{options.seeds} seeds"),
    ]
