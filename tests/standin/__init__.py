"""A Hub on loopback: the real protocol and its failures, real and generated models, and the demo."""
