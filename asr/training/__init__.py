"""Training: the task, the run, its callbacks and its configuration."""
