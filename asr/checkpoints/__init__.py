"""Checkpoints and exported models: written in one step, read without running code from them."""
