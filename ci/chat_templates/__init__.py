"""Chat templates of two checkpoints, held equal on generated conversations by two independent engines."""
