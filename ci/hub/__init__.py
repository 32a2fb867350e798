"""Hub to truncated checkpoint: pin, plan byte ranges, stream, verify, store."""
