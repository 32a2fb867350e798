"""Inputs, comparison and diagnosis: pure functions on tensors and traces."""
