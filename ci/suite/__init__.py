"""The steps of one model, their checks and results; pytest's side of the suite is in `tests/integration/`."""
