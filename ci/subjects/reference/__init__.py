"""An independent implementation of Fast-LLM's checkpoint format and forward pass in plain PyTorch."""
