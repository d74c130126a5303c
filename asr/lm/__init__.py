"""N-gram language models: estimated, compiled, read."""
