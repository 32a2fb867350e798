"""What serves an exported checkpoint: inference engines that load a Hugging Face directory and score tokens."""
