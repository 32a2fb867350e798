"""Checks an adapter: whether hub-tests can trust what it answers, and whether a bug behind it turns red."""
