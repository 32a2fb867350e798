"""From inputs to a verdict: reference run, trace comparison, tolerances, diagnosis."""
