"""Planted bugs: what proves that the gates catch, locate and attribute them. Production code knows nothing of this."""
