"""hub-tests: proves that a training framework's converter and kernels compute what Hugging Face computes."""

__version__ = "0.1.0"
