"""Bugs injected one at a time, and the share of them that is caught, located and attributed correctly."""

from __future__ import annotations

import os
import sys

from benchmarks._figure import Figure


def figures(jobs: int | None = None) -> list[Figure]:
    """Inject every bug and test a thousand correct conversions; print the Markdown table on stderr."""
    from benchmarks.mutation.score import MutationOptions, run_mutation_score, to_markdown

    options = MutationOptions(jobs=jobs or os.cpu_count() or 1)
    score = run_mutation_score(options, progress=lambda line: print(line, file=sys.stderr, flush=True))
    print(to_markdown(score), file=sys.stderr)
    real, caught = len(score.real), score.caught
    alarms, clean, equal = len(score.false_alarms), len(score.controls), len(score.rewrites)
    return [
        Figure("injected bugs caught", caught / real, "=", 1.0, how=f"{caught} of {real}"),
        Figure(
            "located in the correct layer and module", score.located / real, "≥", 0.95, how=f"{score.located} of {real}"
        ),
        Figure("correct component", score.attributed / caught, "≥", 0.95, how=f"{score.attributed} of {caught} caught"),
        Figure("false alarms", alarms, "=", 0, how=f"{clean} correct conversions, {equal} equal rewrites"),
        Figure("equal rewrites tested", equal, "≥", 100, how=f"{options.rewrite_seeds} seed"),
        Figure("correct conversions tested", clean, "≥", 1000, how=f"{options.seeds} seeds"),
    ]
