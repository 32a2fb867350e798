"""Figures, a command each: `python -m benchmarks [name …]`. Ratios within one run, so that machines compare."""
